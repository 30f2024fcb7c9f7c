// Calls to a house behind postern, from a Lambda function or anywhere else.
// One file, nothing to install, Node 18 or newer. docs/callers.md tells how it
// finds the house and what is sent again when.
//
//   import { Postern } from './postern.mjs'
//   const home = new Postern({ names: ['mypi.duckdns.org'], aws: { audience: 'https://mypi.duckdns.org' } })
//   export const handler = async (event, context) => {
//     const res = await home.call('POST', '/orders', { body: event, context })
//     return res.json()
//   }

import crypto from 'node:crypto'
import dns from 'node:dns'
import https from 'node:https'
import http from 'node:http'
import net from 'node:net'

const CONNECT = 1000 // ms for a look-up, and for a TCP connection
const HANDSHAKE = 3000
const IDLE = 50_000 // a connection idle for longer may have died unseen
const PASS_OVER = 30_000 // a name that failed is asked last for so long
const FETCH_AGAIN = 5000 // the least time between two looks at the endpoint document
const MAX_DOCUMENT = 64 << 10

const sha256 = (data) => crypto.createHash('sha256').update(data).digest('hex')
const hmac = (key, data) => crypto.createHmac('sha256', key).update(data).digest()
const escape = (s) => encodeURIComponent(s).replace(/[!'()*]/g, (c) => '%' + c.charCodeAt(0).toString(16).toUpperCase())
const sleep = (ms) => new Promise((done) => setTimeout(done, ms))
const clock = () => Date.now()
const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0)
const safe = ['GET', 'HEAD', 'OPTIONS']
const idempotent = [...safe, 'PUT', 'DELETE']

/** An error of finding or reaching the house. `cause` is the last thing that went wrong. */
export class PosternError extends Error {
  constructor(message, cause) { super(message, { cause }); this.name = 'PosternError' }
}

/**
 * sign returns headers with an AWS Signature Version 4 added. All headers are
 * signed. `doublePath` is false for S3 alone.
 */
export function sign({ method, host, path, headers = {}, body = '', keyId, secret, session, region, service, now = new Date(), doublePath = true }) {
  const date = now.toISOString().replace(/[-:]|\.\d{3}/g, '')
  const all = { ...headers, host, 'x-amz-date': date, 'x-amz-content-sha256': sha256(body) }
  if (session) all['x-amz-security-token'] = session
  const lower = Object.fromEntries(Object.entries(all).map(([k, v]) => [k.toLowerCase(), String(v).trim().replace(/ +/g, ' ')]))
  const names = Object.keys(lower).sort()
  const [raw, query = ''] = path.split(/\?(.*)/s)
  const pairs = [...new URLSearchParams(query)].map((pair) => pair.map(escape)).sort((a, b) => order(a[0], b[0]) || order(a[1], b[1]))
  const canonical = [method, doublePath ? raw.split('/').map(escape).join('/') : raw, pairs.map((p) => p.join('=')).join('&'),
    ...names.map((n) => `${n}:${lower[n]}`), '', names.join(';'), lower['x-amz-content-sha256']].join('\n')
  const scope = `${date.slice(0, 8)}/${region}/${service}/aws4_request`
  let key = 'AWS4' + secret
  for (const part of scope.split('/')) key = hmac(key, part)
  const signature = hmac(key, ['AWS4-HMAC-SHA256', date, scope, sha256(canonical)].join('\n')).toString('hex')
  delete lower.host
  return { ...lower, authorization: `AWS4-HMAC-SHA256 Credential=${keyId}/${scope}, SignedHeaders=${names.join(';')}, Signature=${signature}` }
}

// The connection goes to the address of the way; server name, Host and the
// check of the certificate stay with the name.
class HomeAgent extends https.Agent {
  createConnection(options, done) {
    const { way } = options
    const socket = super.createConnection({ ...options, host: way.host, port: way.port, servername: way.name, ALPNProtocols: ['http/1.1'] }, done)
    const give = (ms, what) => setTimeout(() => socket.destroy(Object.assign(new Error(`${what} ${way.host}:${way.port} took longer than ${ms} ms`), { code: 'ETIMEDOUT' })), ms)
    let timer = give(way.connect, 'connecting to')
    socket.usable = false
    socket.once('connect', () => { clearTimeout(timer); timer = give(HANDSHAKE, 'the TLS handshake with') })
    socket.once('secureConnect', () => { clearTimeout(timer); socket.usable = true })
    socket.once('close', () => clearTimeout(timer))
    return socket
  }
}

export class Postern {
  #o; #agent; #failed = new Map(); #good; #doc; #docAt = 0; #token; #calls = new WeakMap()

  /**
   * @param {object} o
   * @param {string[]} o.names host names of the house, the preferred one first; `name:port` where it is not 443
   * @param {{audience: string}} [o.aws] prove who we are with a web-identity token of AWS for this audience
   * @param {{keyId: string, secret: string}} [o.signature] or with signed requests
   * @param {string} [o.apiKey] or with an API key
   * @param {{ssm?: {parameter: string, region?: string}, s3?: {bucket: string, key: string, region?: string}, url?: string}} [o.endpoint] where the endpoint document is
   * @param {string} [o.relay] the last way: `host:port` that passes TLS on to the house, or an https URL with a name of its own
   * @param {string} [o.address] an address to begin with, before any other is known
   * @param {string|Buffer} [o.ca] PEM roots to trust for the house; default: those of Node
   * @param {(name: string) => Promise<string[]>} [o.lookup] how names are looked up; default: as the system does
   * @param {number} [o.timeout] ms for a call without a Lambda context; default 10 s
   * @param {number} [o.connectTimeout] ms for each look-up and each connection; default 1 s
   */
  constructor(o) {
    if (!o?.names?.length) throw new TypeError('postern: names is empty, want the host names of the house')
    this.#o = { timeout: 10_000, connectTimeout: CONNECT, ...o }
    this.#agent = new HomeAgent({ keepAlive: true, scheduling: 'lifo', ca: o.ca, maxCachedSessions: 10 })
    this.#agent.on('free', (socket) => { socket.idleSince = clock() })
    if (o.address) this.#good = { ...split(o.names[0]), host: o.address }
  }

  /** Closes idle connections. */
  close() { this.#agent.destroy() }

  /**
   * call sends one request and returns {status, headers, body, json(), text()}.
   * body may be text, a Buffer, or an object that becomes JSON. context is
   * Lambda's: its remaining time bounds the call and its request id becomes
   * the Idempotency-Key.
   */
  async call(method, path, { body, headers = {}, context, timeout } = {}) {
    method = method.toUpperCase()
    const left = context?.getRemainingTimeInMillis ? context.getRemainingTimeInMillis() - 150 : this.#o.timeout
    const call = { method, path, deadline: clock() + (timeout ?? left), retries: 1, waits: 2, tokens: 1, headers: {} }
    for (const [k, v] of Object.entries(headers)) call.headers[k.toLowerCase()] = v
    call.body = body === undefined || body === null ? Buffer.alloc(0) : Buffer.isBuffer(body) ? body : Buffer.from(typeof body === 'string' ? body : JSON.stringify(body))
    if (body && typeof body === 'object' && !Buffer.isBuffer(body)) call.headers['content-type'] ??= 'application/json'
    if (!safe.includes(method)) call.headers['idempotency-key'] ??= this.#key(context)
    for (;;) {
      const res = await this.#anyWay(call)
      if (res.status === 401 && this.#o.aws && call.tokens-- > 0) { this.#token = undefined; continue }
      const wait = (res.status === 429 || res.status === 503) ? retryAfter(res.headers['retry-after']) : undefined
      if (wait === undefined || call.waits-- <= 0 || clock() + wait + this.#o.connectTimeout > call.deadline) return res
      await sleep(wait)
    }
  }

  // The same for every repetition of an invocation, another for each call in it.
  #key(context) {
    if (!context?.awsRequestId) return crypto.randomUUID()
    const n = (this.#calls.get(context) ?? 0) + 1
    this.#calls.set(context, n)
    return n === 1 ? context.awsRequestId : `${context.awsRequestId}-${n}`
  }

  async #anyWay(call) {
    let last
    for await (const way of this.#ways(call)) {
      if (clock() >= call.deadline) break
      try {
        return await this.#send(call, way)
      } catch (err) {
        if (err.fatal) throw err
        last = err
      }
    }
    throw new PosternError(`${call.method} ${this.#o.names[0]}${call.path}: no way to the house worked: ${last?.message ?? 'no time left'}`, last)
  }

  // The ways to the house, cheap ones first. A way is an address and the name
  // that its certificate is checked for.
  async * #ways(call) {
    const tried = new Set()
    const fresh = (w) => { const k = `${w.name} ${w.host} ${w.port}`; return !tried.has(k) && tried.add(k) }
    const idle = this.#idle()
    if (idle && fresh(idle)) yield idle
    const names = this.#o.names.map(split)
    const ill = (w) => clock() - (this.#failed.get(w.name) ?? -Infinity) < PASS_OVER
    const good = this.#good
    const asked = new Set()
    const byName = async function * (wantIll) {
      for (const w of names) {
        if (ill(w) !== wantIll || asked.has(w.name)) continue
        asked.add(w.name)
        for (const host of await this.#lookup(w.name, call.deadline)) if (fresh({ ...w, host })) yield { ...w, host, found: true }
      }
    }.bind(this)
    yield * byName(false)
    if (good && fresh(good)) yield good
    for (const w of await this.#published(names, call.deadline)) if (fresh(w)) yield w
    yield * byName(true)
    if (this.#o.relay) yield * this.#relays(names[0], call.deadline)
  }

  async * #relays(home, deadline) {
    const own = /^https:\/\//.test(this.#o.relay) ? new URL(this.#o.relay) : undefined
    const at = own ? { name: own.hostname, port: +own.port || 443, base: own.pathname.replace(/\/$/, '') } : split(this.#o.relay)
    for (const host of await this.#lookup(at.name, deadline)) {
      yield own ? { ...at, host, asked: at.port, transient: true } : { ...home, host, port: at.port, transient: true }
    }
  }

  // A connection that is there, if it cannot have died of age.
  #idle() {
    let found
    for (const sockets of Object.values(this.#agent.freeSockets)) {
      for (const s of [...sockets]) {
        if (clock() - s.idleSince > IDLE || s.destroyed) s.destroy()
        else found ??= s.way
      }
    }
    return found
  }

  async #lookup(name, deadline) {
    if (net.isIP(name)) return [name]
    let timer
    const late = new Promise((_, no) => { timer = setTimeout(no, Math.min(this.#o.connectTimeout, deadline - clock()), new Error(`looking up ${name} took too long`)) })
    try {
      const look = this.#o.lookup ?? (async (n) => (await dns.promises.lookup(n, { all: true })).map((a) => a.address))
      return (await Promise.race([look(name), late])).slice(0, 4)
    } catch {
      this.#failed.set(name, clock())
      return []
    } finally { clearTimeout(timer) }
  }

  #send(call, way) {
    return this.#once(call, way).catch(async (err) => {
      if (err.fatal) throw err
      if (!err.reached) { // nothing was sent
        if (way.found) this.#failed.set(way.name, clock())
        throw err
      }
      if (err.begun || err.late || !(err.reused || idempotent.includes(call.method)) || call.retries-- <= 0) throw Object.assign(err, { fatal: true })
      // A kept connection died before it answered: the others of its age may
      // have died too.
      for (const sockets of Object.values(this.#agent.freeSockets)) for (const s of [...sockets]) s.destroy()
      return this.#send(call, way)
    })
  }

  async #once(call, way) {
    const headers = await this.#headers(call, way)
    const wait = call.deadline - clock()
    if (wait <= 0) throw new PosternError('no time left')
    return new Promise((resolve, reject) => {
      const connect = Math.min(this.#o.connectTimeout, wait)
      const req = https.request({ agent: this.#agent, method: call.method, host: way.name, servername: way.name, port: way.asked ?? way.port,
        path: (way.base ?? '') + call.path, headers, way: { ...way, connect } }, (res) => {
        this.#good = way.transient ? this.#good : way
        if (way.found) this.#failed.delete(way.name)
        req.socket.way = way
        const parts = []
        res.on('data', (d) => parts.push(d)).on('error', fail)
        res.on('end', () => { clearTimeout(timer); resolve(answer(res, Buffer.concat(parts))) })
      })
      const timer = setTimeout(() => req.destroy(Object.assign(new Error(`no answer within ${wait} ms`), { late: true })), wait)
      function fail(err) {
        clearTimeout(timer)
        // Before the handshake is done nothing was sent.
        const reached = req.reusedSocket || req.socket?.usable === true
        reject(Object.assign(new PosternError(`${way.host}:${way.port} as ${way.name}: ${err.message}`, err),
          { reached, reused: req.reusedSocket, begun: !!req.res, late: err.late }))
      }
      req.on('error', fail)
      req.end(call.body)
    })
  }

  async #headers(call, way) {
    const headers = { ...call.headers }
    if (call.body.length || !safe.includes(call.method)) headers['content-length'] = call.body.length
    const { aws, apiKey, signature } = this.#o
    if (aws) headers.authorization = `Bearer ${await this.token(call.deadline).catch((err) => { throw Object.assign(err, { fatal: true }) })}`
    else if (apiKey) headers.authorization = `Bearer ${apiKey}`
    else if (signature) {
      const port = way.asked ?? way.port
      const { 'content-length': length, ...signed } = headers
      signed['x-postern-nonce'] = crypto.randomBytes(16).toString('base64url') // each attempt is another request
      Object.assign(headers, sign({ method: call.method, host: way.name + (port === 443 ? '' : `:${port}`), path: (way.base ?? '') + call.path, headers: signed,
        body: call.body, keyId: signature.keyId, secret: signature.secret, region: 'home', service: 'postern' }))
    }
    return headers
  }

  /** token returns a web-identity token of AWS, kept until shortly before it expires. */
  async token(deadline = clock() + this.#o.timeout) {
    if (this.#token && clock() < this.#token.until) return this.#token.jwt
    const body = new URLSearchParams({ Action: 'GetWebIdentityToken', Version: '2011-06-15', 'Audience.member.1': this.#o.aws.audience,
      SigningAlgorithm: 'RS256', DurationSeconds: '900' }).toString()
    const res = await awsCall({ service: 'sts', region: this.#o.aws.region, method: 'POST', path: '/', body, deadline,
      headers: { 'content-type': 'application/x-www-form-urlencoded' } })
    const [, jwt] = /<WebIdentityToken>([^<]+)</.exec(res) ?? []
    const [, exp] = /<Expiration>([^<]+)</.exec(res) ?? []
    if (!jwt || !(Date.parse(exp) > 0)) throw new PosternError('STS answered without a token')
    // A clock of ours that is wrong must not make a good token look old.
    this.#token = { jwt, until: Math.max(Date.parse(exp) - 60_000, clock() + 30_000) }
    return jwt
  }

  // The addresses of the endpoint document, which is fetched when it is needed.
  async #published(names, deadline) {
    const from = this.#o.endpoint
    if (!from) return []
    if (clock() - this.#docAt > FETCH_AGAIN) {
      this.#docAt = clock()
      try {
        this.#doc = JSON.parse(await fetchDocument(from, deadline))
      } catch { /* the one we have may still be right */ }
    }
    const doc = this.#doc
    if (!doc) return []
    const home = names.find((w) => doc.names?.includes?.(w.name)) ?? names[0]
    const port = Number.isInteger(doc.port) && doc.port > 0 && doc.port < 65536 ? doc.port : home.port
    return [doc.ipv4, doc.ipv6].filter((a) => net.isIP(a ?? '')).map((host) => ({ ...home, host, port, asked: home.port }))
  }
}

function split(name) {
  const [, host, port] = /^(.*?)(?::(\d+))?$/.exec(name)
  return { name: host, host, port: +(port ?? 443) }
}

function answer(res, body) {
  return { status: res.statusCode, headers: res.headers, body, text: () => body.toString(), json: () => JSON.parse(body.toString()) }
}

// Seconds or a date (RFC 9110 section 10.2.3), in ms.
function retryAfter(value) {
  if (value === undefined) return undefined
  const ms = /^\d+$/.test(value) ? value * 1000 : Date.parse(value) - clock()
  return Number.isNaN(ms) ? undefined : Math.max(0, ms)
}

function fetchDocument({ ssm, s3, url }, deadline) {
  if (ssm) {
    return awsCall({ service: 'ssm', region: ssm.region, method: 'POST', path: '/', deadline, body: JSON.stringify({ Name: ssm.parameter }),
      headers: { 'content-type': 'application/x-amz-json-1.1', 'x-amz-target': 'AmazonSSM.GetParameter' } }).then((text) => JSON.parse(text).Parameter.Value)
  }
  if (s3) return awsCall({ service: 's3', region: s3.region, bucket: s3.bucket, method: 'GET', path: '/' + s3.key.split('/').map(escape).join('/'), deadline })
  return plain(new URL(url), 'GET', {}, '', deadline)
}

// One signed call to AWS, with the key that Lambda puts into the environment.
// AWS_ENDPOINT_URL_<SERVICE> and AWS_ENDPOINT_URL work as in AWS's own SDKs.
function awsCall({ service, region, bucket, method, path, body = '', headers = {}, deadline }) {
  const env = process.env
  region ??= env.AWS_REGION ?? env.AWS_DEFAULT_REGION
  const override = env[`AWS_ENDPOINT_URL_${service.toUpperCase()}`] ?? env.AWS_ENDPOINT_URL
  const host = bucket && !override && !bucket.includes('.') ? `${bucket}.s3.${region}.amazonaws.com` : `${service}.${region}.amazonaws.com`
  const url = new URL(override ?? `https://${host}`)
  if (bucket && !url.host.startsWith(bucket + '.')) path = `/${bucket}${path}`
  const signed = sign({ method, host: url.host, path, headers, body, region, service, doublePath: service !== 's3',
    keyId: env.AWS_ACCESS_KEY_ID, secret: env.AWS_SECRET_ACCESS_KEY, session: env.AWS_SESSION_TOKEN })
  return plain(new URL(path, url), method, signed, body, deadline)
}

function plain(url, method, headers, body, deadline) {
  const wait = Math.max(1, Math.min(3000, deadline - clock()))
  return new Promise((resolve, reject) => {
    const req = (url.protocol === 'http:' ? http : https).request(url, { method, headers: { ...headers, 'content-length': Buffer.byteLength(body) }, agent: false }, (res) => {
      const parts = []
      let size = 0
      res.on('data', (d) => { if ((size += d.length) > MAX_DOCUMENT) req.destroy(new Error('answer too long')); parts.push(d) })
      res.on('error', reject).on('end', () => {
        clearTimeout(timer)
        const text = Buffer.concat(parts).toString()
        if (res.statusCode === 200) return resolve(text)
        const [, code] = /<Code>(\w+)<|"__type":"[^"]*?(\w+)"/.exec(text) ?? []
        reject(new PosternError(`${url.host} answered ${res.statusCode} ${code ?? ''}`))
      })
    })
    const timer = setTimeout(() => req.destroy(new Error(`${url.host}: no answer within ${wait} ms`)), wait)
    req.on('error', (err) => { clearTimeout(timer); reject(err) })
    req.end(body)
  })
}
