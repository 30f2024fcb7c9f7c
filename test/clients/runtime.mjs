// A Lambda runtime on the documented Runtime API, where AWS's own runtime
// client is not installed: _HANDLER, LAMBDA_TASK_ROOT and
// AWS_LAMBDA_RUNTIME_API are set as in Lambda.
import http from 'node:http'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const [file, name] = process.env._HANDLER.split('.')
const { [name]: handler } = await import(pathToFileURL(path.join(process.env.LAMBDA_TASK_ROOT, `${file}.mjs`)))
const api = (method, suffix, body) => new Promise((resolve, reject) => {
  const req = http.request(`http://${process.env.AWS_LAMBDA_RUNTIME_API}/2018-06-01/runtime/invocation/${suffix}`, { method }, (res) => {
    let text = ''
    res.setEncoding('utf8').on('data', (d) => { text += d }).on('error', reject).on('end', () => resolve({ headers: res.headers, text }))
  })
  req.on('error', reject).end(body)
})
for (;;) {
  let next
  try { next = await api('GET', 'next') } catch { process.exit(0) } // the environment is taken down
  const id = next.headers['lambda-runtime-aws-request-id']
  if (!id) process.exit(0)
  const deadline = Number(next.headers['lambda-runtime-deadline-ms'])
  const context = { awsRequestId: id, getRemainingTimeInMillis: () => deadline - Date.now() }
  try {
    await api('POST', `${id}/response`, JSON.stringify(await handler(JSON.parse(next.text), context)))
  } catch (err) {
    await api('POST', `${id}/error`, JSON.stringify({ errorType: err.name, errorMessage: err.message }))
  }
}
