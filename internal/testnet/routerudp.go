package testnet

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// control answers what comes to the port of PCP and NAT-PMP.
func (r *Router) control(from netip.AddrPort, b []byte) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(b) < 2 || b[1]&0x80 != 0 {
		return nil
	}
	switch {
	case b[0] == 2 && r.mode.PCP:
		return r.pcpLocked(from, b)
	case b[0] == 0 && r.mode.NATPMP && from.Addr().Is4():
		return r.pmpLocked(from, b)
	case r.mode.PCP: // RFC 6887 section 9: says which version it speaks
		return r.pcpAnswerLocked(b[1], 1, 0, nil)
	case r.mode.NATPMP: // RFC 6886 section 3.5
		out := []byte{0, b[1] | 0x80, 0, 1}
		return binary.BigEndian.AppendUint32(out, r.epochLocked())
	}
	return nil
}

// pcpAnswerLocked is the header of RFC 6887 section 7.2 and what follows.
func (r *Router) pcpAnswerLocked(op, result byte, lifetime uint32, body []byte) []byte {
	out := []byte{2, op | 0x80, 0, result}
	out = binary.BigEndian.AppendUint32(out, lifetime)
	out = binary.BigEndian.AppendUint32(out, r.epochLocked())
	out = append(out, make([]byte, 12)...)
	return append(out, body...)
}

func (r *Router) pcpLocked(from netip.AddrPort, b []byte) []byte {
	op := b[1]
	switch {
	case len(b) < 24:
		return nil
	case op == 0:
		r.asked["pcp announce"]++
		return r.pcpAnswerLocked(op, 0, 0, nil)
	case op != 1:
		return r.pcpAnswerLocked(op, 4, 0, nil)
	case len(b) < 60:
		return r.pcpAnswerLocked(op, 3, 0, nil)
	}
	body := append([]byte(nil), b[24:60]...)
	lifetime := binary.BigEndian.Uint32(b[4:])
	if lifetime == 0 {
		r.asked["pcp delete"]++
	} else {
		r.asked["pcp map"]++
	}
	fail := func(code byte) []byte { return r.pcpAnswerLocked(op, code, 30, body) }
	client := netip.AddrFrom16([16]byte(b[8:24])).Unmap()
	prefer := len(b) >= 64 && b[60] == 2
	want := RouterMapping{
		Proto: protoName(b[36]), Client: client, Internal: binary.BigEndian.Uint16(body[16:]),
		External: binary.BigEndian.Uint16(body[18:]), Description: "PCP", nonce: [12]byte(body[:12]),
	}
	switch {
	case client != from.Addr():
		return fail(12) // ADDRESS_MISMATCH
	case prefer && r.mode.NoOptions:
		return fail(5)
	case r.mode.Refuse:
		return fail(2)
	case !r.mode.WAN.IsValid() && client.Is4():
		return fail(7)
	}
	at := r.ofClientLocked(want)
	if at >= 0 && r.table[at].nonce != want.nonce {
		return fail(2) // RFC 6887 section 11.3: somebody else's
	}
	if lifetime == 0 {
		if at >= 0 {
			r.table = append(r.table[:at:at], r.table[at+1:]...)
		}
		return r.pcpAnswerLocked(op, 0, 0, body)
	}
	if at >= 0 {
		want.External = r.table[at].External
	} else if client.Is6() || want.External == 0 {
		want.External = want.Internal
	}
	for at < 0 && r.findLocked(want.Proto, want.External, client) >= 0 {
		if prefer {
			return fail(11)
		}
		want.External = want.External%65535 + 1
	}
	ext := r.toldLocked()
	if client.Is6() {
		ext = client
	}
	if asked := netip.AddrFrom16([16]byte(body[20:36])).Unmap(); prefer && !asked.IsUnspecified() && asked != ext {
		return fail(11) // RFC 6887 section 13.2: it has not that address
	}
	granted := r.putLocked(at, want, time.Duration(lifetime)*time.Second)
	binary.BigEndian.PutUint16(body[18:], want.External)
	a := ext.As16()
	copy(body[20:], a[:])
	return r.pcpAnswerLocked(op, 0, uint32(granted/time.Second), body)
}

// ofClientLocked is the mapping of an internal port, made by PCP or NAT-PMP.
func (r *Router) ofClientLocked(want RouterMapping) int {
	r.expireLocked()
	for i, m := range r.table {
		if m.Proto == want.Proto && m.Client == want.Client && m.Internal == want.Internal && m.Description == want.Description {
			return i
		}
	}
	return -1
}

func protoName(n byte) string {
	if n == 17 {
		return "udp"
	}
	return "tcp"
}

func (r *Router) pmpAddressLocked() []byte {
	out := []byte{0, 0x80, 0, 0}
	wan := r.toldLocked()
	if !wan.IsValid() {
		out[3] = 3 // network failure
		wan = netip.IPv4Unspecified()
	}
	out = binary.BigEndian.AppendUint32(out, r.epochLocked())
	return append(out, wan.AsSlice()...)
}

func (r *Router) pmpLocked(from netip.AddrPort, b []byte) []byte {
	op := b[1]
	if op == 0 {
		r.asked["nat-pmp address"]++
		return r.pmpAddressLocked()
	}
	if op > 2 || len(b) < 12 {
		return binary.BigEndian.AppendUint32([]byte{0, op | 0x80, 0, 5}, r.epochLocked())
	}
	m := RouterMapping{
		Proto: [...]string{1: "udp", 2: "tcp"}[op], Client: from.Addr(), Internal: binary.BigEndian.Uint16(b[4:]),
		External: binary.BigEndian.Uint16(b[6:]), Description: "NAT-PMP",
	}
	lifetime := binary.BigEndian.Uint32(b[8:])
	code := byte(0)
	at := r.ofClientLocked(m)
	switch {
	case r.mode.Refuse:
		code = 2
	case !r.mode.WAN.IsValid():
		code = 3
	case lifetime == 0:
		r.asked["nat-pmp delete"]++
		if at >= 0 {
			r.table = append(r.table[:at:at], r.table[at+1:]...)
		}
	default:
		r.asked["nat-pmp map"]++
		if at >= 0 {
			m.External = r.table[at].External
		}
		for at < 0 && r.findLocked(m.Proto, m.External, m.Client) >= 0 {
			m.External = m.External%65535 + 1
		}
		lifetime = uint32(r.putLocked(at, m, time.Duration(lifetime)*time.Second) / time.Second)
	}
	out := binary.BigEndian.AppendUint32([]byte{0, op | 0x80, 0, code}, r.epochLocked())
	out = binary.BigEndian.AppendUint16(out, m.Internal)
	out = binary.BigEndian.AppendUint16(out, m.External)
	return binary.BigEndian.AppendUint32(out, lifetime)
}

// search answers M-SEARCH.
func (r *Router) search(from netip.AddrPort, b []byte) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.mode.UPnP || !strings.HasPrefix(string(b), "M-SEARCH * HTTP/1.1\r\n") {
		return nil
	}
	var target string
	for line := range strings.SplitSeq(string(b), "\r\n") {
		if v, ok := strings.CutPrefix(line, "ST: "); ok {
			target = v
		}
	}
	version, ok := strings.CutPrefix(target, "urn:schemas-upnp-org:device:InternetGatewayDevice:")
	if !ok || version != "1" && !r.mode.IGD2 {
		return nil
	}
	r.asked["ssdp"]++
	location := r.mode.Location
	if location == "" {
		location = fmt.Sprintf("http://%s/rootDesc.xml", r.HTTP)
		if from.Addr().Is6() {
			location = fmt.Sprintf("http://%s/rootDesc.xml", r.HTTP6)
		}
	}
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: %s\r\nUSN: uuid:fake::%s\r\nEXT:\r\nSERVER: Fake/1.0 UPnP/1.1 testnet/1.0\r\nLOCATION: %s\r\n\r\n", target, target, location)
}
