package tlsmgr

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/idna"
)

// site is one name we serve.
type site struct {
	name string
	cert string    // the name its certificate has; differs below a wildcard
	file *fileCert // nil: the certificate is managed
}

// nameMap finds a name exactly or below a one-label wildcard, without
// allocating. wild is keyed by what follows the "*.".
type nameMap[T any] struct {
	exact map[string]T
	wild  map[string]T
}

func newNameMap[T any]() nameMap[T] {
	return nameMap[T]{exact: map[string]T{}, wild: map[string]T{}}
}

func (m nameMap[T]) set(name string, v T) {
	if rest, ok := strings.CutPrefix(name, "*."); ok {
		m.wild[rest] = v
		return
	}
	m.exact[name] = v
}

// find looks for a canonical name; an exact entry wins over a wildcard, which
// stands for exactly one label (RFC 9525 section 6.3).
func (m nameMap[T]) find(name string) (T, bool) {
	if v, ok := m.exact[name]; ok {
		return v, true
	}
	if i := strings.IndexByte(name, '.'); i > 0 {
		v, ok := m.wild[name[i+1:]]
		return v, ok
	}
	var none T
	return none, false
}

// table is everything a handshake needs to know about names. It never changes
// once published.
type table struct {
	sites    nameMap[*site]
	fallback *site // DefaultHost, or nil
	onDemand *onDemandRules
	managed  []string // sorted, without the names that files serve
	files    []*fileCert
	asks     nameMap[bool] // hosts whose clients are asked for a certificate
}

func newTable(cfg Config, files []*fileCert) (*table, error) {
	t := &table{sites: newNameMap[*site](), files: files, asks: newNameMap[bool]()}
	for _, n := range cfg.ClientCerts {
		t.asks.set(n, true)
	}
	for _, n := range cfg.Names {
		t.sites.set(n, &site{name: n, cert: n})
	}
	for _, f := range files {
		for _, h := range f.hosts {
			t.sites.set(h, &site{name: h, cert: h, file: f})
		}
	}
	for n, s := range t.sites.exact {
		if s.file == nil {
			t.managed = append(t.managed, n)
		}
	}
	for n, s := range t.sites.wild {
		if s.file == nil {
			t.managed = append(t.managed, "*."+n)
		}
	}
	slices.Sort(t.managed)
	if cfg.DefaultHost != "" {
		name, err := canonicalHost(cfg.DefaultHost)
		if err != nil {
			return nil, err
		}
		s, ok := t.sites.find(name)
		if !ok {
			return nil, fmt.Errorf("tls default_host: %s is not a host of any site, want one of them", name)
		}
		if s.name != name { // below a wildcard: shown under its own name
			s = &site{name: name, cert: s.cert, file: s.file}
		}
		t.fallback = s
	}
	if cfg.OnDemand != nil {
		t.onDemand = newOnDemandRules(*cfg.OnDemand)
	}
	return t, nil
}

// all lists the sites sorted by name.
func (t *table) all() []*site {
	out := slices.Collect(maps.Values(t.sites.exact))
	out = slices.AppendSeq(out, maps.Values(t.sites.wild))
	slices.SortFunc(out, func(a, b *site) int { return strings.Compare(a.name, b.name) })
	return out
}

// wants reports whether a certificate for name may stay in memory.
func (t *table) wants(name string) bool {
	if rest, ok := strings.CutPrefix(name, "*."); ok {
		s, ok := t.sites.wild[rest]
		return ok && s.file == nil
	}
	if s, ok := t.sites.exact[name]; ok {
		return s.file == nil
	}
	return t.onDemand != nil && t.onDemand.mayKeep(name)
}

// onDemandName reports whether a certificate in memory was obtained on demand:
// no site lists its name, and it is no address of ours.
func (t *table) onDemandName(name string) bool {
	if strings.HasPrefix(name, "*.") || t.onDemand == nil {
		return false
	}
	if _, ok := t.sites.find(name); ok {
		return false
	}
	return t.onDemand.mayKeep(name) && (!isAddr(name) || t.onDemand.named(name))
}

var errTooLong = errors.New("too long")

// canonicalHost brings a configured host into the form server names have after
// canonicalSNI: lower case, A-labels, no trailing dot, IP addresses as
// netip prints them.
func canonicalHost(raw string) (string, error) {
	s := strings.TrimSuffix(strings.TrimSpace(raw), ".")
	s = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	if a, err := netip.ParseAddr(s); err == nil {
		return a.WithZone("").Unmap().String(), nil
	}
	rest, wild := strings.CutPrefix(s, "*.")
	var ascii string
	err := errTooLong
	if len(rest) <= 1000 { // a name of 253 letters, however they are written
		ascii, err = idna.Lookup.ToASCII(rest)
	}
	if err == nil {
		ascii, err = idna.Lookup.ToASCII(ascii) // refuses A-labels made of bytes that are not text
	}
	if err != nil || !validLabels(ascii) {
		return "", fmt.Errorf("host %q: not a host name, want one like www.example.org, *.example.org or an IP address", raw)
	}
	if wild {
		return "*." + ascii, nil
	}
	return ascii, nil
}

// validLabels reports whether name is made of labels that a host name may have
// (RFC 1123 section 2.1) and is short enough (RFC 1035 section 2.3.4).
func validLabels(name string) bool {
	if len(name) == 0 || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return true
}

// canonicalSNI lowers ASCII and drops one trailing dot. Server names are ASCII
// (RFC 6066 section 3); a name already canonical is returned as it is, without
// allocating.
func canonicalSNI(s string) string {
	return strings.ToLower(strings.TrimSuffix(s, "."))
}

// localAddr is the address the client connected to, as a host name would be
// written, or "".
func localAddr(c net.Conn) string {
	if c == nil {
		return ""
	}
	ap, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return ""
	}
	return ap.Addr().WithZone("").Unmap().String()
}

// isAddr reports whether a client sent an address where a name belongs, as
// some do.
func isAddr(name string) bool {
	// Most names end in a letter; parsing those would allocate an error.
	if n := len(name); n == 0 || (name[n-1] < '0' || name[n-1] > '9') && !strings.Contains(name, ":") {
		return false
	}
	_, err := netip.ParseAddr(name)
	return err == nil
}
