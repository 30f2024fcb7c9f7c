// Drives clients/node/postern.mjs: helper.mjs OPTIONS, then a command per
// line; an answer per line.
import fs from 'node:fs'
import readline from 'node:readline'
import { Postern } from '../../clients/node/postern.mjs'

const o = JSON.parse(process.argv[2])
let dns = o.dns
const home = new Postern({
  names: o.names, aws: o.audience && { audience: o.audience }, signature: o.keyId && { keyId: o.keyId, secret: o.secret }, apiKey: o.apiKey || undefined,
  endpoint: o.parameter ? { ssm: { parameter: o.parameter } } : o.bucket ? { s3: { bucket: o.bucket, key: o.key } } : o.url ? { url: o.url } : undefined,
  relay: o.relay || undefined, address: o.address || undefined, ca: fs.readFileSync(o.ca), timeout: o.timeout, connectTimeout: o.connect,
  lookup: async (name) => {
    if (dns[name] === undefined) throw Object.assign(new Error(`getaddrinfo ENOTFOUND ${name}`), { code: 'ENOTFOUND' })
    return dns[name] === null ? new Promise(() => {}) : dns[name] // null: nobody answers
  },
})
const contexts = new Map()
for await (const line of readline.createInterface({ input: process.stdin })) {
  const c = JSON.parse(line)
  if (c.dns) dns = c.dns
  if (c.later) { const now = Date.now, ms = c.later * 1000; Date.now = () => now() + ms }
  let context
  if (c.request) {
    context = contexts.get(c.request) ?? { awsRequestId: c.request, getRemainingTimeInMillis: () => o.timeout }
    contexts.set(c.request, context)
  }
  let out
  try {
    const res = await home.call(c.method, c.path, { body: c.body ? Buffer.from(c.body) : undefined, headers: c.body ? { 'content-type': 'text/plain' } : {}, context })
    out = { status: res.status, body: res.text() }
  } catch (err) { out = { error: err.message } }
  process.stdout.write(JSON.stringify(out) + '\n')
}
home.close()
