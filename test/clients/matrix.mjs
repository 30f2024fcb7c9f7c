// A client of the matrix: matrix.mjs KIND HOST PORT ROOT.PEM KEY. It tells what
// it is, and then reads a line for each round: whether to begin with new
// clients, the address of the name (- for a name that cannot be looked up), and
// how many clients call with each method. It answers with their errors.
import crypto from 'node:crypto'
import dns from 'node:dns'
import fs from 'node:fs'
import https from 'node:https'
import readline from 'node:readline'

const [kind, host, port, ca, key] = process.argv.slice(2)
const base = `https://${host}:${port}`
const headers = (method) => ({ 'x-api-key': key, ...(method === 'POST' && { 'idempotency-key': crypto.randomUUID() }) })
const body = (method) => (method === 'POST' ? '{"a":1}' : undefined)
const patience = () => AbortSignal.timeout(50_000)
let address

function look(name) {
  if (name === host && address !== '-') return [address]
  throw Object.assign(new Error(`getaddrinfo ENOTFOUND ${name}`), { code: 'ENOTFOUND', syscall: 'getaddrinfo' })
}

dns.lookup = (name, options, done) => {
  if (typeof options === 'function') [options, done] = [{}, options]
  let found
  try { found = look(name) } catch (err) { return process.nextTick(done, err) }
  if (options?.all) process.nextTick(done, null, found.map((a) => ({ address: a, family: 4 })))
  else process.nextTick(done, null, found[0], 4)
}

const kinds = {
  https: async () => [`Node ${process.versions.node} https, Agent keepAlive`, () => {
    const agent = new https.Agent({ keepAlive: true })
    return (method) => new Promise((resolve, reject) => {
      const req = https.request(base + '/x', { agent, method, headers: headers(method), signal: patience() }, (res) => {
        let text = ''
        res.on('data', (d) => { text += d }).on('error', reject).on('end', () => resolve([res.statusCode, text]))
      })
      req.on('error', reject)
      req.end(body(method))
    })
  }],
  fetch: async () => [`Node ${process.versions.node} fetch`, () => async (method) => {
    const res = await fetch(base + '/x', { method, headers: headers(method), body: body(method), signal: patience() })
    return [res.status, await res.text()]
  }],
  axios: async () => {
    const { default: axios } = await import('axios')
    return [`axios ${axios.VERSION}`, () => {
      const client = axios.create({ validateStatus: null, responseType: 'text', transformResponse: (t) => t })
      return async (method) => {
        const res = await client.request({ url: base + '/x', method, headers: headers(method), data: body(method), signal: patience() })
        return [res.status, res.data]
      }
    }]
  },
  undici: async () => {
    const { Agent, request } = await import('undici')
    const { version } = JSON.parse(fs.readFileSync(new URL('node_modules/undici/package.json', import.meta.url)))
    return [`undici ${version} request`, () => {
      const dispatcher = new Agent()
      return async (method) => {
        const res = await request(base + '/x', { dispatcher, method, headers: headers(method), body: body(method), signal: patience() })
        return [res.statusCode, await res.body.text()]
      }
    }]
  },
  helper: async () => {
    const { Postern } = await import('../../clients/node/postern.mjs')
    return [`clients/node, Node ${process.versions.node}`, () => {
      const home = new Postern({ names: [`${host}:${port}`], apiKey: key, ca: fs.readFileSync(ca), lookup: async (name) => look(name), timeout: 50_000, connectTimeout: 10_000 })
      return async (method) => {
        const res = await home.call(method, '/x', { body: body(method) })
        return [res.status, res.text()]
      }
    }]
  },
}

const [label, client] = await kinds[kind]()
console.log(label)
let clients = []
for await (const line of readline.createInterface({ input: process.stdin })) {
  const [begin, where, n] = line.split(' ')
  address = where
  if (begin === 'new') clients = ['GET', 'POST'].flatMap((method) => Array.from({ length: +n }, () => [method, client()]))
  const errors = await Promise.all(clients.map(async ([method, call]) => {
    try {
      const [status, text] = await call(method)
      return status === 200 && text === `${method} done` ? '' : `${status} ${text}`
    } catch (err) { return `${err.cause?.code ?? err.code ?? err.name}: ${err.cause?.message ?? err.message}` }
  }))
  console.log(errors.map((e) => e.replace(/\s+/g, ' ')).join('\t'))
}
process.exit(0) // whatever is kept open
