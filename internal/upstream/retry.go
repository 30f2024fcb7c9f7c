package upstream

import (
	"slices"
	"sync/atomic"
)

// Retry is when a request is sent to another backend, or once more to the only
// one, although the first attempt may have reached its backend. It comes on
// top of what is always safe: the next backend after a failed dial, and the
// resend after a pooled connection died.
type Retry struct {
	Tries  int     // attempts in all, at least 2
	Budget float64 // retries as a share of requests, above 0 up to 1; ten are always in hand
	Closed bool    // when the connection ended before an answer
	Late   bool    // when no answer came in time
	Bad    bool    // when the answer was not HTTP
	Status []int   // when the answer has one of these
	All    bool    // for every method, not just those that may be repeated (RFC 9110 section 9.2.2)
}

func (r *Retry) equal(o *Retry) bool {
	if r == nil || o == nil {
		return r == o
	}
	a, b := *r, *o
	a.Status, b.Status = nil, nil
	return a.Tries == b.Tries && a.Budget == b.Budget && a.Closed == b.Closed && a.Late == b.Late && a.Bad == b.Bad && a.All == b.All &&
		slices.Equal(r.Status, o.Status)
}

// Why a request was tried again that may have reached a backend; metric labels.
const (
	retryClosed  = "closed"
	retryTimeout = "timeout"
	retryBad     = "malformed"
	retryStatus  = "status"
	retryRestart = "restart" // a route that holds requests met a backend that went down
	retryBroke   = "budget"  // none: the budget is used up
)

// outcome is what the rule for retries looks at.
type outcome struct {
	class      string // of the error; "ok" with a status
	status     int
	answered   bool // a byte of an answer arrived
	idempotent bool // the method may be repeated
	replayable bool // the body is still there from its first byte
	tries      int  // attempts made, this one included
	hold       bool // the route waits for backends that restart
}

// again returns why a request is tried once more although it may have had an
// effect; "": it is not.
func (r *Retry) again(o outcome) string {
	if !o.replayable {
		return ""
	}
	lost := !o.answered && (o.class == classClosed || o.class == classReset)
	if o.hold && o.idempotent && lost && o.tries < 4 {
		return retryRestart
	}
	if r == nil || o.tries >= r.Tries || !o.idempotent && !r.All {
		return ""
	}
	switch {
	case o.class == classOK && slices.Contains(r.Status, o.status):
		return retryStatus
	case lost && r.Closed:
		return retryClosed
	case o.class == classRespTime && r.Late:
		return retryTimeout
	case o.class == classGarbled && r.Bad:
		return retryBad
	}
	return ""
}

// idempotent reports whether a request with the method may be repeated.
func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "":
		return true
	}
	return false
}

// budget bounds the retries of a pool by its requests. Its unit is a
// thousandth of a retry.
type budget struct{ have atomic.Int64 }

const (
	oneRetry  = 1000
	mostSaved = 10 * oneRetry
)

// earn is called for each request.
func (b *budget) earn(share float64) {
	if b.have.Load() < mostSaved {
		b.have.Add(int64(share * oneRetry))
	}
}

// spend takes one retry out, if there is one.
func (b *budget) spend() bool {
	for {
		have := b.have.Load()
		if have < oneRetry {
			return false
		}
		if b.have.CompareAndSwap(have, have-oneRetry) {
			return true
		}
	}
}
