package tlsmgr

import (
	"net/netip"
	"slices"
)

// ownAddrs are the public addresses that have a certificate of their own (RFC
// 8738). It never changes once published.
type ownAddrs struct{ list []ownAddr }

type ownAddr struct {
	text string
	v4   bool
}

func newOwnAddrs(addrs []netip.Addr) *ownAddrs {
	o := &ownAddrs{}
	for _, a := range addrs {
		a = a.WithZone("").Unmap()
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			continue
		}
		own := ownAddr{a.String(), a.Is4()}
		if !slices.Contains(o.list, own) {
			o.list = append(o.list, own)
		}
	}
	return o
}

// find is the address a client is served as that asked for name. A client that
// named nothing reached us at name, which behind a router is not the address
// it dialled: then it is our public one of the same family.
func (o *ownAddrs) find(name string, unnamed bool) string {
	for i := range o.list {
		if o.list[i].text == name {
			return name
		}
	}
	if !unnamed || name == "" {
		return ""
	}
	a, err := netip.ParseAddr(name)
	if err != nil {
		return ""
	}
	for i := range o.list {
		if o.list[i].v4 == a.Is4() {
			return o.list[i].text
		}
	}
	return ""
}

func (o *ownAddrs) has(name string) bool {
	return slices.ContainsFunc(o.list, func(a ownAddr) bool { return a.text == name })
}

// refreshAddrs asks for our public addresses. While nobody knows them the last
// ones stay. The certificate of an address that is not ours any more leaves
// memory; its file stays, should the address come back.
func (m *Manager) refreshAddrs() {
	set := m.settings.Load()
	addrs := slices.Clone(set.ips)
	if set.publicAddrs != nil {
		got := set.publicAddrs()
		if len(got) == 0 && len(addrs) == 0 {
			return
		}
		addrs = append(addrs, got...)
	}
	next := newOwnAddrs(addrs)
	old := m.addrs.Load()
	if old != nil && slices.Equal(old.list, next.list) {
		return
	}
	m.addrs.Store(next)
	if old != nil {
		m.eng.forget(m.wants)
	}
	names := make([]string, 0, len(next.list))
	for _, a := range next.list {
		names = append(names, a.text)
	}
	if len(names) > 0 || old != nil && len(old.list) > 0 {
		m.log.Info("addresses that get a certificate", "addresses", names)
	}
	m.loadFromDisk(names)
}

// wants reports whether a certificate for name may stay in memory.
func (m *Manager) wants(name string) bool {
	return m.table.Load().wants(name) || m.addrs.Load().has(name)
}
