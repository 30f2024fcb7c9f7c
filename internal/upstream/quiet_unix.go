//go:build unix

package upstream

import (
	"net"
	"syscall"
)

// peek looks at an idle connection without waiting and without taking
// anything from it. It allocates nothing after newPeek.
type peek struct {
	raw  syscall.RawConn // nil: the connection cannot be looked at
	look func(fd uintptr)
	err  error
	one  [1]byte
}

func newPeek(c net.Conn) *peek {
	p := new(peek)
	if sc, ok := c.(syscall.Conn); ok {
		p.raw, _ = sc.SyscallConn() // nil on error
	}
	p.look = func(fd uintptr) {
		for {
			_, _, p.err = syscall.Recvfrom(int(fd), p.one[:], syscall.MSG_PEEK)
			if p.err != syscall.EINTR {
				return
			}
		}
	}
	return p
}

// quiet reports whether the connection is open with nothing to read. On an
// idle connection a byte is as bad as its end: it would be taken for the
// beginning of the next answer. Control is used because Read minds the
// connection's deadline, which may have passed while it was idle; the socket
// is non-blocking, as all of Go's are.
func (p *peek) quiet() bool {
	if p.raw == nil {
		return true
	}
	if p.raw.Control(p.look) != nil {
		return false
	}
	return p.err == syscall.EAGAIN || p.err == syscall.EWOULDBLOCK
}
