package gateway

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// NAT-PMP, RFC 6886 section 3. All numbers are big-endian.
//
//	request                          response
//	 0 version 0                      0 version 0
//	 1 opcode                         1 opcode | 0x80
//	                                  2 result code (2)
//	                                  4 epoch in seconds (4)
//	opcode 0, address:
//	                                  8 external address (4)
//	opcode 1, UDP, and 2, TCP:
//	 2 reserved (2)
//	 4 internal port (2)              8 internal port (2)
//	 6 external port (2)             10 external port (2)
//	 8 lifetime in seconds (4)       12 lifetime in seconds (4)
const (
	pmpVersion = 0
	pmpAddress = 0
	pmpMapUDP  = 1
	pmpMapTCP  = 2
)

// Result codes of NAT-PMP (RFC 6886 section 3.5) that we act on.
const (
	pmpUnsuppVersion  = 1
	pmpNotAuthorized  = 2
	pmpNetworkFailure = 3
)

func pmpAddressRequest() []byte { return []byte{pmpVersion, pmpAddress} }

func pmpMapRequest(op byte, internal, external uint16, lifetime uint32) []byte {
	b := make([]byte, 12)
	b[0], b[1] = pmpVersion, op
	binary.BigEndian.PutUint16(b[4:], internal)
	binary.BigEndian.PutUint16(b[6:], external)
	binary.BigEndian.PutUint32(b[8:], lifetime)
	return b
}

// pmpResponse is what a router answers.
type pmpResponse struct {
	epoch    uint32
	addr     netip.Addr // of opcode 0
	internal uint16     // of the others
	external uint16
	lifetime uint32 // seconds
}

// pmpError is a result code that is not success.
type pmpError struct{ code uint16 }

func (e *pmpError) Error() string {
	names := [...]string{"success", "unsupported version", "not authorized", "network failure", "no resources", "unsupported opcode"}
	name := "unknown"
	if int(e.code) < len(names) {
		name = names[e.code]
	}
	return fmt.Sprintf("NAT-PMP result %d (%s)", e.code, name)
}

// parsePMPResponse reads the answer to a request with opcode op. The answer of
// a server that speaks only PCP is errVersion; a result code is a *pmpError,
// with the epoch.
func parsePMPResponse(b []byte, op byte) (pmpResponse, error) {
	var r pmpResponse
	switch {
	case len(b) < 4:
		return r, fmt.Errorf("NAT-PMP answer of %d bytes, want at least 4", len(b))
	case b[1]&isResponse == 0:
		return r, errOther
	case b[0] != pmpVersion:
		return r, errVersion
	}
	if len(b) >= 8 {
		r.epoch = binary.BigEndian.Uint32(b[4:])
	}
	code := binary.BigEndian.Uint16(b[2:])
	if code == pmpUnsuppVersion {
		return r, errVersion
	}
	if b[1] != op|isResponse {
		return r, errOther
	}
	if code != 0 {
		return r, &pmpError{code}
	}
	want := 16
	if op == pmpAddress {
		want = 12
	}
	if len(b) != want {
		return r, fmt.Errorf("NAT-PMP answer of %d bytes, want %d", len(b), want)
	}
	if op == pmpAddress {
		r.addr = netip.AddrFrom4([4]byte(b[8:12]))
		return r, nil
	}
	r.internal = binary.BigEndian.Uint16(b[8:])
	r.external = binary.BigEndian.Uint16(b[10:])
	r.lifetime = binary.BigEndian.Uint32(b[12:])
	return r, nil
}
