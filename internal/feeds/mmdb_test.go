package feeds

import (
	"encoding/binary"
	"net/netip"
)

// record is what a database knows of a network.
type record struct {
	network string
	country string
	asn     uint32
}

// writeMMDB makes a database in MaxMind's format, version 2.0, with an IPv6
// tree of 24-bit records, in which IPv4 has its place at ::/96
// (https://maxmind.github.io/MaxMind-DB/).
func writeMMDB(records []record) []byte {
	const empty = -1
	type node [2]int // >= 0: a node; empty; below: the record -2-n
	nodes := []node{{empty, empty}}
	for i, r := range records {
		p := netip.MustParsePrefix(r.network)
		bytes, bits := p.Addr().As16(), p.Bits()
		if p.Addr().Is4() {
			bytes = [16]byte{12: bytes[12], 13: bytes[13], 14: bytes[14], 15: bytes[15]}
			bits += 96
		}
		at := 0
		for b := range bits {
			side := int(bytes[b/8]>>(7-b%8)) & 1
			if b == bits-1 {
				nodes[at][side] = -2 - i
				break
			}
			if nodes[at][side] < 0 {
				nodes = append(nodes, node{empty, empty})
				nodes[at][side] = len(nodes) - 1
			}
			at = nodes[at][side]
		}
	}

	var data []byte
	offsets := make([]int, len(records))
	for i, r := range records {
		offsets[i] = len(data)
		data = append(data, 7<<5|2) // a map of 2
		data = mmdbText(data, "country")
		data = append(data, 7<<5|1)
		data = mmdbText(mmdbText(data, "iso_code"), r.country)
		data = mmdbNumber(mmdbText(data, "autonomous_system_number"), r.asn)
	}

	var out []byte
	for _, n := range nodes {
		for _, to := range n {
			value := to
			switch {
			case to == empty:
				value = len(nodes)
			case to < empty:
				value = len(nodes) + 16 + offsets[-2-to]
			}
			out = append(out, byte(value>>16), byte(value>>8), byte(value))
		}
	}
	out = append(out, make([]byte, 16)...)
	out = append(out, data...)
	out = append(out, "\xab\xcd\xefMaxMind.com"...)
	out = append(out, 7<<5|9)
	for _, field := range []struct {
		name  string
		value uint32
	}{
		{"binary_format_major_version", 2}, {"binary_format_minor_version", 0}, {"build_epoch", 1},
		{"ip_version", 6}, {"node_count", uint32(len(nodes))}, {"record_size", 24},
	} {
		out = mmdbNumber(mmdbText(out, field.name), field.value)
	}
	out = mmdbText(mmdbText(out, "database_type"), "Test")
	out = append(mmdbText(out, "languages"), 0, 4) // an empty list
	return append(mmdbText(out, "description"), 7<<5)
}

// mmdbText appends a string of fewer than 29 bytes.
func mmdbText(b []byte, s string) []byte { return append(append(b, 2<<5|byte(len(s))), s...) }

// mmdbNumber appends a uint32.
func mmdbNumber(b []byte, n uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, 6<<5|4), n)
}
