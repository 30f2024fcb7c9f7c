// A WebSocket by the npm package ws: usage: websocket.mjs URL.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { randomBytes } from 'node:crypto'
import WebSocket from 'ws'

const url = process.argv[2]
const ws = new WebSocket(url, ['echo.v1'], { headers: { Cookie: 'session=1' } })
await once(ws, 'open')
assert.equal(ws.protocol, 'echo.v1')

async function echo(message) {
  const answer = once(ws, 'message')
  ws.send(message)
  const [data, binary] = await answer
  assert.equal(binary, typeof message !== 'string')
  assert.ok(Buffer.from(message).equals(data))
}
await echo('hello')
await echo('')
await echo(randomBytes(1 << 20))

const pong = once(ws, 'pong')
ws.ping('are you there')
assert.equal(String((await pong)[0]), 'are you there')

const closed = once(ws, 'close')
ws.send('close 4001 enough')
const [code, reason] = await closed
assert.equal(code, 4001)
assert.equal(String(reason), 'enough')

// What the backend does not want to upgrade is answered as it says.
const refused = new WebSocket(url.replace('/ws', '/no-ws'))
const [, res] = await once(refused, 'unexpected-response')
assert.equal(res.statusCode, 403)
refused.on('error', () => {})
refused.terminate()
