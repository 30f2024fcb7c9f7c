package upstream

import (
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
)

func TestDialErrorText(t *testing.T) {
	refused := &net.OpError{
		Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 3000},
		Err: os.NewSyscallError("connect", syscall.ECONNREFUSED),
	}
	for _, tt := range []struct {
		err  *DialError
		want string
	}{
		{&DialError{"127.0.0.1:3000", "connect", refused}, "127.0.0.1:3000: connect: connection refused"},
		{&DialError{"app:3000", "connect", refused}, "app:3000: connect: dial tcp 127.0.0.1:3000: connect: connection refused"},
		{
			&DialError{"https://nas:8443", "tls", fmt.Errorf("tls: failed to verify certificate: %w", x509.UnknownAuthorityError{})},
			"https://nas:8443: tls: failed to verify certificate: x509: certificate signed by unknown authority; add the root of its certificate to those of this machine, or speak http:// to it",
		},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}
