package ddns

import (
	"errors"
	"net/netip"
	"time"

	"postern/internal/dnsapi"
	"postern/internal/dnscheck"
)

// host is what is known about one name at one DNS host.
type host struct {
	name string
	set  Addresses // what its records are, as far as we set or saw them
	ours bool      // set.V6 was written by us, so we may take it away

	looked  time.Time // when its name servers were asked last; zero: never since the start
	changed time.Time // when it was written last; zero: never since the start
	agreed  bool      // all that answered at the last look had what set says
	silent  bool      // nobody answered it
	strange int       // looks in a row that showed something else
	wrong   bool      // it is something else, long after it was written

	held    time.Time     // no call before
	kind    error         // of the last call: nil, or one of dnsapi's
	refused act           // what the last call was
	pause   time.Duration // before the call after that
	tried   Addresses     // what the last call was about
}

// What to do about a host.
type act int

const (
	actWait  act = iota
	actLook      // ask the name servers
	actSet       // write
	actClear     // take our AAAA record away
)

const (
	firstPause    = 10 * time.Second // after a call that got no answer
	longestPause  = 5 * time.Minute
	firstRefusal  = 5 * time.Minute // after a call that was refused
	longestRefuse = 6 * time.Hour
	confirmWithin = 10 * time.Minute // name servers that show something else for longer are told of
	strangeLooks  = 2                // in a row, before a record is written again
	rewriteEvery  = time.Hour        // a record that somebody else changes
)

// plan says what to do about a host now, or until when there is nothing to do.
// want is what its records should be; every is the pace of looks; sees is
// whether the name servers can be asked at all.
func plan(now time.Time, h *host, want Addresses, every time.Duration, sees bool) (act, time.Time) {
	call := actWait
	switch {
	case want.V4.IsValid() && h.set.V4 != want.V4, want.V6.IsValid() && h.set.V6 != want.V6,
		len(want.List()) > 0 && h.rewrite(now):
		call = actSet
	case h.set.V6.IsValid() && h.ours && !want.V6.IsValid():
		call = actClear
	}
	if call == actSet && sees && h.looked.IsZero() {
		return actLook, now // it may be right already
	}
	at, planned := h.nextLook(every)
	planned = planned && sees
	switch {
	case call != actWait && !now.Before(h.heldFor(call)):
		return call, now
	case planned && !now.Before(at):
		return actLook, now
	case call != actWait && planned:
		return actWait, earlier(at, h.heldFor(call))
	case call != actWait:
		return actWait, h.heldFor(call)
	case planned:
		return actWait, at
	}
	return actWait, now.Add(every)
}

// heldFor is the time before which the call is not made. A refusal holds the
// calls that were refused and no others.
func (h *host) heldFor(call act) time.Time {
	if errors.Is(h.kind, dnsapi.ErrRejected) && h.refused != call {
		return time.Time{}
	}
	return h.held
}

// rewrite reports whether a record that we wrote was changed by somebody.
func (h *host) rewrite(now time.Time) bool {
	return h.strange >= strangeLooks && (h.changed.IsZero() || now.Sub(h.changed) >= rewriteEvery)
}

// nextLook is when the name servers are asked: at the start, soon after a
// change and at growing distances until they agree, then at the pace of the
// configuration; a strange answer or none is looked into sooner.
func (h *host) nextLook(every time.Duration) (at time.Time, planned bool) {
	switch since := h.looked.Sub(h.changed); {
	case len(h.set.List()) == 0:
		return time.Time{}, false
	case h.looked.IsZero():
		return h.changed, true
	case since < 0:
		return h.changed.Add(2 * time.Second), true
	case !h.changed.IsZero() && !h.agreed && since < confirmWithin:
		return h.looked.Add(min(max(since, 2*time.Second), every)), true
	case h.silent, h.strange > 0 && h.strange < strangeLooks:
		return h.looked.Add(min(time.Minute, every)), true
	}
	return h.looked.Add(every), true
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// called notes how a call about want ended.
func (h *host) called(now time.Time, want Addresses, what act, err error) {
	h.tried, h.refused = want, what
	if err == nil {
		h.kind, h.pause, h.held = nil, 0, time.Time{}
		h.changed, h.agreed, h.strange, h.wrong = now, false, 0, false
		if what == actClear {
			h.set.V6, h.ours = netip.Addr{}, false
			return
		}
		if want.V4.IsValid() {
			h.set.V4 = want.V4
		}
		if want.V6.IsValid() {
			h.set.V6, h.ours = want.V6, true
		}
		return
	}
	told, kind := kindOf(err)
	first, longest := firstPause, longestPause
	if errors.Is(kind, dnsapi.ErrRejected) {
		first, longest = firstRefusal, longestRefuse
	}
	if h.kind != kind {
		h.pause = 0
	}
	h.kind = kind
	h.pause = min(max(2*h.pause, first), longest)
	h.held = now.Add(max(h.pause, told))
}

// wanted notes that the addresses are others now. A host that was not there
// may well be by now: our own line was perhaps what was down.
func (h *host) wanted(want Addresses) {
	if h.tried != want && errors.Is(h.kind, dnsapi.ErrUnreachable) {
		h.held, h.pause = time.Time{}, 0
	}
}

// kindOf is how long a client's error asks to wait, and its kind.
func kindOf(err error) (wait time.Duration, kind error) {
	if e, ok := errors.AsType[*dnsapi.Error](err); ok {
		wait = e.RetryAfter
	}
	for _, k := range []error{dnsapi.ErrRejected, dnsapi.ErrLimited} {
		if errors.Is(err, k) {
			return wait, k
		}
	}
	return wait, dnsapi.ErrUnreachable
}

// sight is what the name servers of a name said.
type sight struct {
	answered, silent int
	right            bool   // all that answered have what we look for
	odd              string // what one of those that have not said
}

// saw notes what the name servers said about addrs. first: nobody knew what
// they have, so what is right there counts as set.
func (h *host) saw(now time.Time, addrs Addresses, s sight) {
	first := h.looked.IsZero()
	h.looked, h.silent = now, s.answered == 0
	switch {
	case h.silent:
		return // nothing learned
	case s.right:
		h.agreed, h.strange, h.wrong = true, 0, false
		if first {
			if addrs.V4.IsValid() {
				h.set.V4 = addrs.V4
			}
			if addrs.V6.IsValid() && h.set.V6 != addrs.V6 {
				h.set.V6 = addrs.V6 // found there: whose it is, we do not know
				h.ours = false
			}
		}
		return
	}
	h.agreed = false
	if h.changed.IsZero() || now.Sub(h.changed) >= confirmWithin {
		h.strange++
		h.wrong = h.wrong || h.strange >= strangeLooks
	}
}

// add counts the answers about one address.
func (s *sight) add(seen dnscheck.Seen) {
	s.answered += seen.With + len(seen.Without)
	s.silent += len(seen.Silent)
	s.right = s.right && len(seen.Without) == 0
	if s.odd == "" && len(seen.Without) > 0 {
		s.odd = seen.Without[0]
	}
}
