// Server-sent events: usage: events.mjs BASE. The backend sends the next one
// only after the one before has arrived here, so nothing on the way may wait
// for more.
import assert from 'node:assert/strict'

const base = process.argv[2]
const res = await fetch(`${base}/events?id=${process.pid}`)
assert.equal(res.headers.get('content-type'), 'text/event-stream')
let text = ''
let n = 0
const decoder = new TextDecoder()
for await (const chunk of res.body) {
  text += decoder.decode(chunk, { stream: true })
  for (let end; (end = text.indexOf('\n\n')) >= 0; text = text.slice(end + 2)) {
    n++
    assert.equal(text.slice(0, end), `data: ${n}`)
    if (n < 5) await fetch(`${base}/ack?id=${process.pid}`, { method: 'POST' })
  }
}
assert.equal(n, 5)
