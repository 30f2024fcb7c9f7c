package guard

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// An EventKind is what an Event is about. The set is closed.
type EventKind uint8

const (
	// EventBan is a ban that begins, by hand and on trial as well.
	EventBan EventKind = iota
	// EventUnban is one that was ended by hand. The end of its time is no
	// event.
	EventUnban
	// EventServed is a request for something only scanners ask for, and that
	// nobody should get, which a backend answered 2xx.
	EventServed
	// EventFlood is a limit that is hit: at most one a minute for each limit.
	EventFlood
	// EventBansOff tells that all clients seem to share one address, so that
	// bans are switched off; EventBansOn that this is over.
	EventBansOff
	EventBansOn
	// EventMode is a change of the mode.
	EventMode
	// EventFull is a ban that could not be kept, because the table is full of
	// others: at most one a minute.
	EventFull

	numEventKinds = int(EventFull) + 1
)

var eventKindNames = [numEventKinds]string{"ban", "unban", "served", "flood", "bans_off", "bans_on", "mode", "full"}

// String returns the kind's name, in snake_case.
func (k EventKind) String() string {
	if int(k) < numEventKinds {
		return eventKindNames[k]
	}
	return "unknown"
}

// An Event is something a person or another part of the process may want to
// know. It holds plain values.
type Event struct {
	Kind EventKind
	At   time.Time
	// Ban is set for EventBan, EventUnban and EventFull.
	Ban Ban
	// Addr is who it is about: of EventServed, EventFlood, EventBansOff. The
	// zero Addr when it is nobody in particular.
	Addr netip.Addr
	// Rule is from a closed set of words: the family of EventServed, the
	// limit of EventFlood.
	Rule string
	// Host and Path are of EventServed, as a stranger sent them, cut to 256
	// bytes: quote them.
	Host, Path string
	// Mode is the one that EventMode came to.
	Mode Mode
}

// emit tells an event.
func (g *Guard) emit(e Event) {
	if g.onEvent != nil {
		g.onEvent(e)
	}
}

// A Limit is one of the bounds of EventFlood.
type Limit uint8

const (
	// LimitConnections is Config.Connections, LimitAddressConnections
	// Config.PerAddress, LimitAccepts Config.Accepts, LimitRequests
	// Config.Requests.
	LimitConnections Limit = iota
	LimitAddressConnections
	LimitAccepts
	LimitRequests
	// LimitRate is a rate per address, LimitCallerRate one per caller,
	// LimitRouteRate one of a route, LimitTotalRate the one of all requests.
	LimitRate
	LimitCallerRate
	LimitRouteRate
	LimitTotalRate
	// LimitRouteRequests is the requests under way on a route.
	LimitRouteRequests

	numLimits = int(LimitRouteRequests) + 1
)

var limitNames = [numLimits]string{
	"connections", "address_connections", "handshakes", "address_requests",
	"address_rate", "caller_rate", "route_rate", "total_rate", "route_requests",
}

// String returns the limit's metric label.
func (l Limit) String() string {
	if int(l) < numLimits {
		return limitNames[l]
	}
	return "unknown"
}

// quiet is how long further events of a kind are not told.
const quiet = int64(time.Minute)

// LimitHit counts that addr ran into a limit, and tells it once a minute. The
// guard's own limits call it themselves.
func (g *Guard) LimitHit(l Limit, addr netip.Addr, now time.Time) {
	if int(l) >= numLimits {
		return
	}
	g.metrics.limits[l].Inc()
	if g.once(&g.limitTold[l], now) {
		g.emit(Event{Kind: EventFlood, At: now, Addr: canonical(addr), Rule: l.String()})
	}
}

// once reports whether last is a minute ago, and moves it to now if so.
func (g *Guard) once(last *atomic.Int64, now time.Time) bool {
	at, told := g.at(now), last.Load()
	if at == 0 {
		at = 1 // 0 is never
	}
	return (told == 0 || at-told >= quiet) && last.CompareAndSwap(told, at)
}

// Served tells that a backend answered a request with the status. If it was
// for a file that only scanners ask for and that nobody should get, an
// environment file say, and the answer is 2xx, that is an event: something is
// published that should not be.
func (g *Guard) Served(addr netip.Addr, status int, host, path string, now time.Time) {
	if status < 200 || status > 299 || g.policy.Load().mode == Off {
		return
	}
	family, ok := ScannerSignature(path)
	if !ok || !private(family) {
		return
	}
	g.metrics.served.Inc()
	if g.once(&g.servedTold, now) {
		g.emit(Event{
			Kind: EventServed, At: now, Addr: canonical(addr), Rule: string(family),
			Host: clip(host), Path: clip(path),
		})
	}
}

// private reports whether what the family looks for is never meant to be read
// by strangers, whatever application is behind us.
func private(f Family) bool {
	switch f {
	case FamilyDotenv, FamilyVCS, FamilySecrets, FamilyBackup, FamilyShell:
		return true
	}
	return false
}

// clip returns a copy of s, cut to 256 bytes.
func clip(s string) string {
	b := []byte(s[:min(len(s), 256)])
	return string(b)
}

// tally counts what happened since somebody asked last, for digests.
type tally struct {
	mu       sync.Mutex
	since    time.Time
	families [maxFamilies]uint64
	signals  [numSignals]uint64
	nets     [tallyNetworks]netCount
	bans     uint64
}

type netCount struct {
	key key
	n   uint64
}

const tallyNetworks = 64

// note counts one signal. Networks are counted in a few places (the
// space-saving algorithm of Metwally, Agrawal and El Abbadi, 2005): a frequent
// one is never missed, a rare one may be counted too high.
func (t *tally) note(k key, s Signal, family int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.signals[s]++
	if family >= 0 && family < maxFamilies {
		t.families[family]++
	}
	net := k.network()
	least := &t.nets[0]
	for i := range t.nets {
		if t.nets[i].key == net {
			t.nets[i].n++
			return
		}
		if t.nets[i].n < least.n {
			least = &t.nets[i]
		}
	}
	least.key = net
	least.n++
}

func (t *tally) ban() {
	t.mu.Lock()
	t.bans++
	t.mu.Unlock()
}

// A Tally is what was counted against addresses in a time.
type Tally struct {
	Since, Until time.Time
	// Bans is how many began.
	Bans uint64
	// Signals, Families and Networks are told with how often they came, the
	// most frequent first, those that did not come left out. Networks are at
	// most 64, and their counts may be too high when there were more.
	Signals  []Counted[Signal]
	Families []Counted[Family]
	Networks []Counted[netip.Prefix]
}

// Counted is something and how often it came.
type Counted[T any] struct {
	What  T
	Count uint64
}

// TakeTally returns what was counted since it was called last, and begins
// anew.
func (g *Guard) TakeTally(now time.Time) Tally {
	t := &g.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	out := Tally{Since: t.since, Until: now, Bans: t.bans}
	for s, n := range t.signals {
		out.Signals = appendCount(out.Signals, Signal(s), n)
	}
	for f := range families {
		out.Families = appendCount(out.Families, families[f].name, t.families[f])
	}
	for _, n := range t.nets {
		out.Networks = appendCount(out.Networks, n.key.prefix(), n.n)
	}
	sortCounts(out.Signals)
	sortCounts(out.Families)
	sortCounts(out.Networks)
	t.since, t.bans = now, 0
	t.signals, t.families, t.nets = [numSignals]uint64{}, [maxFamilies]uint64{}, [tallyNetworks]netCount{}
	return out
}

func appendCount[T any](list []Counted[T], what T, n uint64) []Counted[T] {
	if n == 0 {
		return list
	}
	return append(list, Counted[T]{what, n})
}

func sortCounts[T any](list []Counted[T]) {
	slices.SortStableFunc(list, func(a, b Counted[T]) int { return cmp.Compare(b.Count, a.Count) })
}
