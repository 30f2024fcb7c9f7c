// Node's https with a keep-alive agent, before a backend that closes idle
// connections after 50 ms: usage: keepalive.mjs URL. The gaps are around those
// 50 ms, so that many requests meet a connection that is just being closed.
import assert from 'node:assert/strict'
import https from 'node:https'
import { setTimeout as gap } from 'node:timers/promises'

const url = process.argv[2]
const agent = new https.Agent({ keepAlive: true, maxSockets: 1 })
let reused = 0

function ask(i) {
  return new Promise((resolve, reject) => {
    const body = i % 2 ? JSON.stringify({ i }) : ''
    const req = https.request(url, { agent, method: body ? 'POST' : 'GET', headers: body ? { 'Content-Length': body.length } : {} }, (res) => {
      let text = ''
      res.setEncoding('utf8')
      res.on('data', (chunk) => { text += chunk })
      res.on('end', () => resolve({ status: res.statusCode, text }))
      res.on('error', reject)
    })
    req.on('error', reject)
    req.on('socket', () => { if (req.reusedSocket) reused++ })
    req.end(body)
  })
}

for (let i = 0; i < 100; i++) {
  const res = await ask(i)
  assert.equal(res.status, 200, `request ${i}: ${res.status} ${res.text}`)
  await gap(46 + (i % 8))
}
assert.equal(reused, 99, 'the client kept its one connection')
agent.destroy()
console.log('100 requests, no error')
