package guard

// A Protocol is what the first bytes of a connection speak.
type Protocol uint8

const (
	// Incomplete means that more bytes are needed; never with 8 or more.
	Incomplete Protocol = iota
	// TLS is a handshake record (RFC 8446 section 5.1).
	TLS
	// HTTP is a request line, or what may become one.
	HTTP
	// HTTP2Preface is the start of HTTP/2 without TLS (RFC 9113 section 3.4).
	HTTP2Preface
	// SSH is a version string (RFC 4253 section 4.2).
	SSH
	// RDP is a TPKT header (RFC 2126), as remote desktops and industrial
	// controllers are sought with.
	RDP
	// SOCKS4 and SOCKS5 (RFC 1928) are attempts to use us as a proxy.
	SOCKS4
	SOCKS5
	// SMB is Windows file sharing.
	SMB
	// MGLNDD is the greeting of one large port scanner.
	MGLNDD
	// Other is anything else.
	Other

	numProtocols = int(Other) + 1
)

var protocolNames = [numProtocols]string{
	"incomplete", "tls", "http", "http2_preface", "ssh", "rdp",
	"socks4", "socks5", "smb", "mglndd", "other",
}

// String returns the protocol's name, which is fit for a metric label.
func (p Protocol) String() string {
	if int(p) < numProtocols {
		return protocolNames[p]
	}
	return "unknown"
}

// FirstBytes is the number of bytes with which ClassifyFirstBytes is never
// Incomplete.
const FirstBytes = 8

// ClassifyFirstBytes tells what p, the first bytes of a connection, speaks.
// It needs 8 of them at most, mostly 2 to 5, and an answer other than
// Incomplete stays the same whatever follows. It is pure and allocates
// nothing.
func ClassifyFirstBytes(p []byte) Protocol {
	if len(p) == 0 {
		return Incomplete
	}
	switch c := p[0]; {
	case c == 0x16:
		return pattern(p, "\x16\x03", 1, TLS, func(minor byte) bool { return minor <= 4 })
	case c == 0x03:
		return pattern(p, "\x03\x00", 0, RDP, nil)
	case c == 0x04:
		return pattern(p, "\x04", 1, SOCKS4, func(command byte) bool { return command == 1 || command == 2 })
	case c == 0x05:
		// With 0 methods it is DCE/RPC, whose version 5.0 looks alike.
		return pattern(p, "\x05", 1, SOCKS5, func(methods byte) bool { return methods != 0 })
	case c == 0x00:
		return smb(p)
	case c == 0x81:
		return pattern(p, "\x81\x00\x00\x44", 0, SMB, nil) // NetBIOS session request
	case isLetter(c):
		return text(p)
	}
	return Other
}

// pattern compares p with want and, when more is 1, the byte after it with
// ok. It gives the definite answer as soon as there is one.
func pattern(p []byte, want string, more int, is Protocol, ok func(byte) bool) Protocol {
	n := min(len(p), len(want))
	switch {
	case string(p[:n]) != want[:n]:
		return Other
	case len(p) < len(want)+more:
		return Incomplete
	case more == 1 && !ok(p[len(want)]):
		return Other
	}
	return is
}

// smb looks for a message of SMB 1 (0xFF SMB) or later (0xFE SMB), after the
// 4 bytes of the direct TCP transport.
func smb(p []byte) Protocol {
	const length = 4
	if len(p) > 1 && p[1] != 0 {
		return Other
	}
	if len(p) <= length {
		return Incomplete
	}
	if p[length] != 0xff && p[length] != 0xfe {
		return Other
	}
	return pattern(p[length+1:], "SMB", 0, SMB, nil)
}

// text looks at what begins with a letter: a request line unless it is one of
// the few others that do.
func text(p []byte) Protocol {
	for i, c := range p[:min(len(p), FirstBytes)] {
		switch {
		case isLetter(c), i > 0 && (c == '-' || c == '_'):
			switch string(p[:i+1]) {
			case "SSH-":
				return SSH
			case "MGLNDD":
				return MGLNDD
			}
		case c == ' ' && string(p[:i]) == "PRI":
			return pattern(p[i:], " *", 0, HTTP2Preface, nil)
		case c == ' ':
			return HTTP
		default:
			return Other
		}
	}
	if len(p) < FirstBytes {
		return Incomplete
	}
	return HTTP // a long method, such as PROPFIND or VERSION-CONTROL
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
