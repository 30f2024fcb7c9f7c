// A backend as people have it: Node's http server. It closes idle connections
// after 50 ms (the default is 5 s), and tells its port on standard output.
import http from 'node:http'

const server = http.createServer((req, res) => {
  let n = 0
  req.on('data', (chunk) => { n += chunk.length })
  req.on('end', () => res.end(`${req.method} ${n}\n`))
})
server.keepAliveTimeout = 50
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
process.stdin.resume()
process.stdin.on('end', () => process.exit(0))
