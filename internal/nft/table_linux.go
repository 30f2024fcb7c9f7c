package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
)

// chunk is how many elements go into one message: the length of an attribute
// has 16 bits.
const chunk = 512

// priority is that of the input hook: before connection tracking's helpers,
// mangle and every firewall's filter.
const priority = nftables.ChainPriority(-300)

// The ids by which rules find sets that are made in the same message; any will
// do. Without one the library takes the next number of a variable of its own,
// which two goroutines must not do at once.
const (
	tcpSet = 1 + iota
	udpSet
	firstSet
)

// The protocols of packets (IANA protocol numbers) and the families of
// nftables (linux/netfilter.h).
const (
	protoTCP   = 6
	protoUDP   = 17
	familyIPv4 = 2
	familyIPv6 = 10
)

// A table is our table in the kernel and the means to change it. It is used by
// one goroutine.
type table struct {
	conn    *nftables.Conn
	table   *nftables.Table
	banned  *nftables.Chain
	sets    map[form]*nftables.Set
	counted uint64 // what dropped has told already
}

// patience bounds one question to the kernel, which answers at once.
const patience = 10 * time.Second

// openTable prepares what is needed; nothing is changed yet. Each step has a
// socket of its own: one that was left in the middle of an answer, or at its
// deadline, is of no use to the next.
func openTable(netns int) (*table, error) {
	opts := []nftables.ConnOption{nftables.WithSockOptions(func(c *netlink.Conn) error {
		return c.SetDeadline(time.Now().Add(patience))
	})}
	if netns != 0 {
		opts = append(opts, nftables.WithNetNSFd(netns))
	}
	conn, err := nftables.New(opts...)
	if err != nil {
		return nil, wayOut(err, errors.Is(err, os.ErrPermission))
	}
	t := &table{conn: conn, table: &nftables.Table{Family: nftables.TableFamilyINet, Name: "postern"}}
	t.banned = &nftables.Chain{Name: "banned", Table: t.table}
	t.sets = make(map[form]*nftables.Set)
	for i, f := range forms {
		kind := nftables.TypeIPAddr
		if f.v6 {
			kind = nftables.TypeIP6Addr
		}
		t.sets[f.form] = &nftables.Set{Table: t.table, ID: firstSet + uint32(i), Name: f.set, KeyType: kind, HasTimeout: true, Size: maxBanned}
	}
	return t, nil
}

// flush sends what was put together, which the kernel takes as a whole or not
// at all.
func (t *table) flush() error {
	err := t.conn.Flush()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("%w: %w", errGone, err)
	}
	return wayOut(err, errors.Is(err, os.ErrPermission))
}

// replace makes the table anew in one step, whatever was left of it.
func (t *table) replace(p ports) error {
	t.conn.AddTable(t.table) // or else the next line fails where there is none
	t.conn.DelTable(t.table)
	t.conn.AddTable(t.table)
	accept, at := nftables.ChainPolicyAccept, priority
	input := t.conn.AddChain(&nftables.Chain{
		Name: "input", Table: t.table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: &at, Policy: &accept,
	})
	t.conn.AddChain(t.banned)
	for _, f := range forms {
		set := t.sets[f.form]
		if err := t.conn.AddSet(set, nil); err != nil {
			return wayOut(err, false)
		}
		t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: t.banned, Exprs: from(f.form, set)})
	}
	for _, l := range []struct {
		name  string
		id    uint32
		proto byte
		ports []uint16
	}{{"tcp", tcpSet, protoTCP, p.tcp}, {"udp", udpSet, protoUDP, p.udp}} {
		set := &nftables.Set{Table: t.table, ID: l.id, Name: l.name, KeyType: nftables.TypeInetService}
		var elements []nftables.SetElement
		for _, port := range l.ports {
			elements = append(elements, nftables.SetElement{Key: binaryutil.BigEndian.PutUint16(port)})
		}
		if err := t.conn.AddSet(set, elements); err != nil {
			return wayOut(err, false)
		}
		t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: input, Exprs: toOurPorts(l.proto, set)})
	}
	return t.flush()
}

// toOurPorts is "meta l4proto PROTO th dport @PORTS jump banned".
func toOurPorts(proto byte, ports *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: 1, SetName: ports.Name, SetID: ports.ID},
		&expr.Verdict{Kind: expr.VerdictJump, Chain: "banned"},
	}
}

// from is "ip6 saddr & ffff:ffff:ffff:ffff:: @v6 counter drop", and the like
// for the other forms. With the mask in the rule a network is one element of a
// hash table; a set of intervals would be sorted anew at each change.
func from(f form, set *nftables.Set) []expr.Any {
	family, offset, length := byte(familyIPv4), uint32(12), uint32(4) // RFC 791 section 3.1
	if f.v6 {
		family, offset, length = familyIPv6, 8, 16 // RFC 8200 section 3
	}
	rule := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
	}
	if fixed := f.bits / 8; fixed < int(length) {
		mask := append(slices.Repeat([]byte{0xff}, fixed), make([]byte, int(length)-fixed)...)
		rule = append(rule, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: length, Mask: mask, Xor: make([]byte, length)})
	}
	return append(rule,
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop})
}

// put adds bans, or gives those there are their new end. The kernel keeps the
// end of an element that is added again, so each is added, if need be, taken
// away, and added; others see only the result.
func (t *table) put(bans []Ban) error {
	now := time.Now()
	elements := make(map[*nftables.Set][]nftables.SetElement)
	for _, b := range bans {
		set := t.setOf(b.Prefix)
		elements[set] = append(elements[set], nftables.SetElement{
			Key: b.Prefix.Addr().AsSlice(), Timeout: max(b.Until.Sub(now), minTimeout),
		})
	}
	return t.chunks(elements, true)
}

// drop takes bans away. One that is not there, as it ended meanwhile, would
// have the kernel refuse all of them; so each is added first.
func (t *table) drop(prefixes []netip.Prefix) error {
	elements := make(map[*nftables.Set][]nftables.SetElement)
	for _, p := range prefixes {
		set := t.setOf(p)
		elements[set] = append(elements[set], nftables.SetElement{Key: p.Addr().AsSlice(), Timeout: minTimeout})
	}
	return t.chunks(elements, false)
}

func (t *table) chunks(elements map[*nftables.Set][]nftables.SetElement, stay bool) error {
	for set, all := range elements {
		for part := range slices.Chunk(all, chunk) {
			err := errors.Join(t.conn.SetAddElements(set, part), t.conn.SetDeleteElements(set, part))
			if stay {
				err = errors.Join(err, t.conn.SetAddElements(set, part))
			}
			if err != nil {
				return wayOut(err, false)
			}
			if err := t.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *table) setOf(p netip.Prefix) *nftables.Set { return t.sets[formOf(p)] }

// has returns nil when the kernel holds p and the rules that drop it.
func (t *table) has(p netip.Prefix) error {
	if _, err := t.dropped(); err != nil {
		return err
	}
	elements, err := t.conn.GetSetElements(t.setOf(p))
	if err != nil {
		return fmt.Errorf("nftables: read set %s: %w", t.setOf(p).Name, err)
	}
	for _, e := range elements {
		if slices.Equal(e.Key, p.Addr().AsSlice()) {
			return nil
		}
	}
	return fmt.Errorf("nftables: set %s lacks what was put into it", t.setOf(p).Name)
}

// dropped returns the packets dropped since it was last asked. Its error is
// errGone when chain or rules are not there any more.
func (t *table) dropped() (uint64, error) {
	input, err := t.conn.GetRules(t.table, &nftables.Chain{Name: "input", Table: t.table})
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return 0, fmt.Errorf("nftables: read chain input: %w", err)
	}
	rules, err := t.conn.GetRules(t.table, t.banned)
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return 0, fmt.Errorf("nftables: read chain banned: %w", err)
	}
	if len(input) != 2 || len(rules) != len(forms) {
		return 0, errGone
	}
	var packets uint64
	for _, r := range rules {
		for _, e := range r.Exprs {
			if c, ok := e.(*expr.Counter); ok {
				packets += c.Packets
			}
		}
	}
	since := packets - min(t.counted, packets)
	t.counted = packets
	return since, nil
}

// remove deletes the table, if there is one.
func (t *table) remove() error {
	t.conn.AddTable(t.table)
	t.conn.DelTable(t.table)
	return t.flush()
}
