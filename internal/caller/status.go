package caller

import "time"

// IssuerStatus is how the keys of one issuer are.
type IssuerStatus struct {
	Issuer  string
	Fetched time.Time // zero: none are known
	Usable  bool      // they are believed
	Err     error     // of the last fetch; nil: it worked, or there was none yet
}

// Status is what a Registry stands on.
type Status struct {
	Issuers []IssuerStatus
	// ClockSet reports whether proofs are judged by the clock. Known is the
	// time they are judged by otherwise.
	ClockSet bool
	Known    time.Time
}

// Status tells how the Registry is at the time now.
func (r *Registry) Status(now time.Time) Status {
	at, exact := r.clock.judge(now)
	s := Status{ClockSet: exact, Known: at}
	if b := r.book.Load(); b != nil {
		for _, k := range b.keySets() {
			fetched, err := k.status()
			s.Issuers = append(s.Issuers, IssuerStatus{Issuer: k.issuer, Fetched: fetched, Usable: k.current(now) != nil, Err: err})
		}
	}
	return s
}
