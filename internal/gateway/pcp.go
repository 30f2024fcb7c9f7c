package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// The Port Control Protocol, RFC 6887. All numbers are big-endian.
//
//	request                          response
//	 0 version 2                      0 version 2
//	 1 opcode                         1 opcode | 0x80
//	 2 reserved                       2 reserved
//	                                  3 result code
//	 4 lifetime in seconds (4)        4 lifetime in seconds (4)
//	 8 our address (16)               8 epoch in seconds (4)
//	                                 12 reserved (12)
//
// followed, for MAP (section 11.1), by
//
//	24 nonce (12)
//	36 protocol, reserved (3)
//	40 internal port (2), external port (2)
//	44 external address (16)
//
// and by options (section 7.3): code, reserved, length (2).
const (
	pcpVersion = 2
	pcpMap     = 1
	isResponse = 0x80

	pcpHeaderLen = 24
	pcpMapLen    = 36
	pcpMaxLen    = 1100 // RFC 6887 section 7

	optionPreferFailure = 2 // section 13.2

	protoTCP = 6
	protoUDP = 17
)

// Result codes of PCP (RFC 6887 section 7.4) that we act on.
const (
	pcpSuccess        = 0
	pcpUnsuppVersion  = 1
	pcpNotAuthorized  = 2
	pcpUnsuppOption   = 5
	pcpCannotExternal = 11
)

// mapRequest is a PCP MAP request.
type mapRequest struct {
	nonce    [12]byte
	client   netip.Addr // the address the router sees us by
	proto    byte
	internal uint16
	external uint16     // suggested; 0: any
	addr     netip.Addr // suggested; zero: any
	lifetime uint32     // seconds; 0: remove it
	prefer   bool       // rather fail than give another external port
}

func (m mapRequest) encode() []byte {
	b := make([]byte, pcpHeaderLen+pcpMapLen, pcpHeaderLen+pcpMapLen+4)
	b[0], b[1] = pcpVersion, pcpMap
	binary.BigEndian.PutUint32(b[4:], m.lifetime)
	client := m.client.As16() // an IPv4 address is mapped (section 5)
	copy(b[8:24], client[:])
	copy(b[24:36], m.nonce[:])
	b[36] = m.proto
	binary.BigEndian.PutUint16(b[40:], m.internal)
	binary.BigEndian.PutUint16(b[42:], m.external)
	addr := m.addr
	if !addr.IsValid() { // "any" of the family wanted (section 11.1)
		addr = netip.IPv6Unspecified()
		if m.client.Unmap().Is4() {
			addr = netip.IPv4Unspecified()
		}
	}
	a := addr.As16()
	copy(b[44:60], a[:])
	if m.prefer {
		b = append(b, optionPreferFailure, 0, 0, 0)
	}
	return b
}

// mapResponse is what a router answers to a MAP request.
type mapResponse struct {
	result   byte
	lifetime uint32 // seconds; of an error, how long it will last
	epoch    uint32
	nonce    [12]byte
	proto    byte
	internal uint16
	external uint16
	addr     netip.Addr // unmapped
}

// errOther means a message that is well-formed and not for us.
var errOther = errors.New("not the answer to our question")

// errVersion means a server that speaks only the other of the two protocols
// that share the port (RFC 6887 section 9, RFC 6886 section 3.5).
var errVersion = errors.New("the router speaks another version of the protocol")

// parseMapResponse reads the answer to a MAP request. The answer of a server
// that speaks only NAT-PMP is errVersion.
func parseMapResponse(b []byte) (mapResponse, error) {
	var m mapResponse
	switch {
	case len(b) < 4:
		return m, fmt.Errorf("PCP answer of %d bytes, want at least 4", len(b))
	case len(b) > pcpMaxLen:
		return m, fmt.Errorf("PCP answer of %d bytes, want at most %d (RFC 6887 section 7)", len(b), pcpMaxLen)
	case b[1]&isResponse == 0:
		return m, errOther
	case b[0] != pcpVersion:
		return m, errVersion
	case len(b) < pcpHeaderLen:
		return m, fmt.Errorf("PCP answer of %d bytes, want at least %d", len(b), pcpHeaderLen)
	}
	m.result = b[3]
	m.lifetime = binary.BigEndian.Uint32(b[4:])
	m.epoch = binary.BigEndian.Uint32(b[8:])
	if m.result == pcpUnsuppVersion {
		return m, errVersion
	}
	if b[1] != pcpMap|isResponse {
		return m, errOther
	}
	if len(b) < pcpHeaderLen+pcpMapLen {
		return m, fmt.Errorf("PCP MAP answer of %d bytes, want at least %d", len(b), pcpHeaderLen+pcpMapLen)
	}
	copy(m.nonce[:], b[24:36])
	m.proto = b[36]
	m.internal = binary.BigEndian.Uint16(b[40:])
	m.external = binary.BigEndian.Uint16(b[42:])
	m.addr = netip.AddrFrom16([16]byte(b[44:60])).Unmap()
	return m, nil
}

// answers tells whether m belongs to r (RFC 6887 section 11.4).
func (m mapResponse) answers(r mapRequest) bool {
	return m.nonce == r.nonce && m.proto == r.proto && m.internal == r.internal
}

// pcpError is a result code that is not success.
type pcpError struct {
	code     byte
	lifetime uint32 // seconds
}

func (e *pcpError) Error() string {
	return fmt.Sprintf("PCP result %d (%s)", e.code, pcpResult(e.code))
}

// pcpResult names the codes of RFC 6887 section 7.4.
func pcpResult(code byte) string {
	names := [...]string{"success", "unsupported version", "not authorized", "malformed request",
		"unsupported opcode", "unsupported option", "malformed option", "network failure", "no resources",
		"unsupported protocol", "quota exceeded", "external port not to be had", "address mismatch: another NAT between us and the router", "excessive remote peers"}
	if int(code) < len(names) {
		return names[code]
	}
	return "unknown"
}
