// Package clients tries a running postern with the clients people have: curl,
// Node, Python, Go, Java, WebSockets and gRPC. It holds nothing but tests.
//
// A client that is missing is skipped with the reason, unless POSTERN_CI is
// set: there nothing may be missing. `npm ci --prefix test/clients` gets what
// comes from npm, and `npm ci --prefix test/clients/ric` AWS's own runtime
// client, which is built from source. That one, Java, and the Python packages
// requests and urllib3 may be missing.
package clients
