package ddns

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"postern/internal/dnsapi"
	"postern/internal/dnscheck"
)

// Addresses of the stories (RFC 5737, RFC 3849).
var (
	home1 = netip.MustParseAddr("192.0.2.1")
	home2 = netip.MustParseAddr("198.51.100.2")
	liar  = netip.MustParseAddr("203.0.113.66")
	six1  = netip.MustParseAddr("2001:db8:1::7")
	six2  = netip.MustParseAddr("2001:db8:2::7")
	cgnat = netip.MustParseAddr("100.64.3.4")
)

var errDown = errors.New("down")

// fakeHost is a DNS host: an API before name servers that answer with what it
// was told.
type fakeHost struct {
	mu      sync.Mutex
	records map[string]Addresses
	api     error // what calls end with
	servers bool  // the name servers are down
	writes  int   // that worked
	idle    int   // of them, that changed nothing
	calls   int   // all
	cleared int
	clear   error // what taking away ends with
}

func newFakeHost() *fakeHost { return &fakeHost{records: map[string]Addresses{}} }

func (f *fakeHost) set(fn func(*fakeHost)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn(f)
}

func (f *fakeHost) SetAddrs(_ context.Context, name string, v4, v6 netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if f.api != nil {
		return f.api
	}
	old := f.records[name]
	now := old
	if v4.IsValid() {
		now.V4 = v4
	}
	if v6.IsValid() {
		now.V6 = v6
	}
	f.writes++
	if now == old {
		f.idle++
	}
	f.records[name] = now
	return nil
}

func (f *fakeHost) ClearV6(_ context.Context, name string, _, v6 netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if f.api != nil {
		return f.api
	}
	if f.clear != nil {
		return f.clear
	}
	r := f.records[name]
	if r.V6 == v6 {
		r.V6 = netip.Addr{}
		f.cleared++
	}
	f.records[name] = r
	return nil
}

func (f *fakeHost) Probe(context.Context, string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.api
}

func (f *fakeHost) see(name string, a netip.Addr) dnscheck.Seen {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.servers {
		return dnscheck.Seen{Silent: []string{"ns1: timeout", "ns2: timeout"}}
	}
	r := f.records[name]
	if r.V4 == a || r.V6 == a {
		return dnscheck.Seen{With: 2}
	}
	return dnscheck.Seen{Without: []string{"ns1: no such record", "ns2: no such record"}}
}

func (f *fakeHost) has(name string) Addresses {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.records[name]
}

// unreachable, rejected and limited are what clients of dnsapi return.
func unreachable() error {
	return &dnsapi.Error{Provider: "x", Op: "set", Kind: dnsapi.ErrUnreachable, Status: 502}
}
func rejected() error { return &dnsapi.Error{Provider: "x", Op: "set", Kind: dnsapi.ErrRejected} }

// rig is a Manager with everything around it faked.
type rig struct {
	t       *testing.T
	m       *Manager
	cfg     Config
	hosts   map[string]*fakeHost // by provider
	owner   map[string]string    // name -> provider
	cancel  context.CancelFunc
	ended   chan struct{}
	changed func() // tells of a link

	mu      sync.Mutex
	says    map[string]netip.Addr // by source; zero: it fails
	asked   map[string]int
	local   []LocalAddr
	notices []Notice
	changes []Addresses
}

// newRig makes one with a source of each of kinds, named after it, which say
// home1. Providers have the name provider+".example".
func newRig(t *testing.T, kinds []Kind, providers ...string) *rig {
	r := &rig{t: t, hosts: map[string]*fakeHost{}, owner: map[string]string{}, says: map[string]netip.Addr{}, asked: map[string]int{}}
	for _, k := range kinds {
		r.cfg.Sources = append(r.cfg.Sources, r.source(k, string(k), home1))
	}
	for _, p := range providers {
		r.hosts[p] = newFakeHost()
		r.entry(p, p+".example")
	}
	r.cfg.Client = func(p string, _ dnsapi.Settings) (Records, error) { return r.hosts[p], nil }
	r.cfg.See = func(ctx context.Context, name string, a netip.Addr) (dnscheck.Seen, error) {
		return r.hosts[r.owner[name]].see(name, a), ctx.Err()
	}
	r.cfg.Local = func() ([]LocalAddr, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return slices.Clone(r.local), nil
	}
	r.cfg.Watch = func(ctx context.Context, changed func()) error {
		r.mu.Lock()
		r.changed = changed
		r.mu.Unlock()
		<-ctx.Done()
		return nil
	}
	r.cfg.OnNotice = func(n Notice) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.notices = append(r.notices, n)
	}
	r.cfg.OnAddress = func(_, now Addresses) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.changes = append(r.changes, now)
	}
	r.cfg.Registerer = prometheus.NewRegistry()
	return r
}

func (r *rig) entry(provider, name string) {
	r.owner[name] = provider
	r.cfg.Entries = append(r.cfg.Entries, Entry{Provider: provider, Settings: dnsapi.Settings{Token: provider}, Hosts: []string{name}})
}

func (r *rig) source(k Kind, name string, says netip.Addr) Source {
	r.says[name] = says
	return Source{Kind: k, Name: name, Addr: func(ctx context.Context) (netip.Addr, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.asked[name]++
		if a := r.says[name]; a.IsValid() {
			return a, ctx.Err()
		}
		return netip.Addr{}, errDown
	}}
}

// say makes sources tell an address from now on; the zero one: they fail.
func (r *rig) say(a netip.Addr, names ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range names {
		r.says[n] = a
	}
}

func (r *rig) link(addrs ...LocalAddr) {
	r.mu.Lock()
	r.local = addrs
	changed := r.changed
	r.mu.Unlock()
	if changed != nil {
		changed()
	}
}

// start makes the Manager and runs it.
func (r *rig) start() {
	r.t.Helper()
	m, err := New(r.cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.m = m
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.ended = cancel, make(chan struct{})
	go func() { // waited for in stop
		defer close(r.ended)
		if err := m.Run(ctx); err != nil {
			r.t.Errorf("Run: %v", err)
		}
	}()
	synctest.Wait()
}

func (r *rig) stop() {
	r.cancel()
	<-r.ended
	r.cfg.Registerer = prometheus.NewRegistry() // for the next start
}

// pass lets time pass. Every rig lives in a bubble.
func (r *rig) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *rig) believed() netip.Addr { return r.m.Addresses().V4 }

func (r *rig) told() []Notice {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.notices)
}

func (r *rig) wants(what string, got, want any) {
	r.t.Helper()
	if got != want {
		r.t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
