package ddns

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"postern/internal/dnsapi"
)

// Status is what a Manager knows, for people and checks.
type Status struct {
	Addresses Addresses
	Since     time.Time // when they were last others; zero: not since there is a state file
	Online    bool      // an echo service answered lately, or none is asked
	Sources   []SourceStatus
	Records   []RecordStatus
	Outages   []Notice // that have not ended
}

// SourceStatus is the last answer of a source.
type SourceStatus struct {
	Kind Kind
	Name string
	Addr netip.Addr // what it said last, of whatever kind; zero: nothing yet
	At   time.Time  // when
	Err  string     // why it did not answer the last time; "": it did
}

// RecordStatus is one name at one DNS host.
type RecordStatus struct {
	Provider  string
	Name      string
	Addresses Addresses // what its records are, as far as known
	Confirmed bool      // by all of the zone's name servers that answered last
	Looked    time.Time // when they were asked last; zero: not since the start
	Changed   time.Time // when it was written last; zero: not since the start
	Trouble   string    // "", rejected, limited or unreachable: the last call to the API
	RetryAt   time.Time // when it is called again; zero: nothing is due
}

// Status returns a snapshot. It does not block.
func (m *Manager) Status() Status {
	set := m.set.Load()
	m.mu.Lock()
	s := Status{Addresses: m.addrs, Online: m.online.Load()}
	for _, x := range set.Sources {
		st := SourceStatus{Kind: x.Kind, Name: x.Name, Err: m.told[sourceKey(x)]}
		if i := slices.IndexFunc(m.votes, func(v vote) bool { return v.kind == x.Kind && v.name == x.Name }); i >= 0 {
			st.Addr, st.At = m.votes[i].addr, m.votes[i].at
		}
		s.Sources = append(s.Sources, st)
	}
	for _, v := range m.votes {
		if v.kind == Interface {
			s.Sources = append(s.Sources, SourceStatus{Kind: v.kind, Name: v.name, Addr: v.addr, At: v.at})
		}
	}
	workers := m.workers
	m.mu.Unlock()
	s.Since = m.state.since()
	for _, w := range workers {
		s.Records = append(s.Records, w.status()...)
	}
	s.Outages = slices.DeleteFunc(m.watch.history(time.Now()), func(n Notice) bool { return !n.Ended.IsZero() })
	return s
}

func (w *worker) status() []RecordStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []RecordStatus
	for _, h := range w.hosts {
		r := RecordStatus{Provider: w.id, Name: h.name, Addresses: h.set, Confirmed: h.agreed, Looked: h.looked, Changed: h.changed, RetryAt: h.held}
		if h.kind != nil {
			r.Trouble = map[error]string{dnsapi.ErrRejected: "rejected", dnsapi.ErrLimited: "limited", dnsapi.ErrUnreachable: "unreachable"}[h.kind]
		}
		out = append(out, r)
	}
	return out
}

// History returns the outages of the DNS hosts in the last seven days and
// those that have not ended, by their beginning.
func (m *Manager) History() []Notice {
	out := m.watch.history(time.Now())
	slices.SortStableFunc(out, func(a, b Notice) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Provider, b.Provider)) })
	return out
}
