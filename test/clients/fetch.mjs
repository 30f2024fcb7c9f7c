// Node's own fetch: usage: fetch.mjs BASE. Ends with 0 when all is as wanted.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'

const base = process.argv[2]

const hello = await fetch(`${base}/hello?x=1`, { headers: { 'X-Own': 'yes' } })
assert.equal(hello.status, 200)
const seen = await hello.json()
assert.equal(seen.target, '/hello?x=1')
assert.equal(seen.header['X-Own'][0], 'yes')
assert.equal(seen.header['X-Forwarded-Proto'][0], 'https')
assert.ok(hello.headers.get('x-request-id'))

const head = await fetch(`${base}/hello`, { method: 'HEAD' })
assert.equal(head.status, 200)
assert.equal(await head.text(), '')

// Known length, and a stream of unknown length.
const body = randomBytes(3 << 20)
const sum = createHash('sha256').update(body).digest('hex')
for (const send of [body, new Blob([body]).stream()]) {
  const res = await fetch(`${base}/count`, { method: 'POST', body: send, duplex: 'half' })
  assert.deepEqual(await res.json(), { bytes: body.length, sha256: sum })
}

const big = await fetch(`${base}/big?n=${8 << 20}`)
assert.equal((await big.arrayBuffer()).byteLength, 8 << 20)

const many = await Promise.all(Array.from({ length: 50 }, (_, i) => fetch(`${base}/hello?i=${i}`).then((r) => r.json())))
many.forEach((got, i) => assert.equal(got.target, `/hello?i=${i}`))

// A fetch that is given up is given up at the backend too.
const control = new AbortController()
const given = fetch(`${base}/hold`, { signal: control.signal })
await fetch(`${base}/held`)
control.abort()
await assert.rejects(given, { name: 'AbortError' })
assert.equal(await (await fetch(`${base}/gone`)).text(), 'gone\n')
