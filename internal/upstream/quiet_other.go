//go:build !unix

package upstream

import "net"

// peek cannot look at a connection here: a closed one shows when the request
// is sent, and the resend rule takes it from there.
type peek struct{}

func newPeek(net.Conn) *peek { return new(peek) }

func (*peek) quiet() bool { return true }
