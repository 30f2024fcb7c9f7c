package proxy

import (
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"postern/internal/guard"
)

// Account is what a known caller may use, and what it has used. It outlives
// snapshots. A nil Account bounds nothing.
type Account struct {
	// Rate bounds its requests; nil: it does not.
	Rate *guard.Single

	// Requests bounds those under way at once; 0: it does not.
	Requests int32

	// Bytes bounds the bodies of requests and answers together, in one day
	// of UTC; 0: it does not. What is under way when they are used up is
	// finished.
	Bytes int64

	// Wait is how long the caller waits for the head of an answer when it
	// does not say; 0: it does not matter.
	Wait time.Duration

	used *usage
}

// usage is what an account has used.
type usage struct {
	under atomic.Int32
	day   atomic.Int64 // since 1970
	bytes atomic.Int64 // of that day
}

// Since makes a the successor of before: what was used stays used, and a rate
// that is the same goes on.
func (a *Account) Since(before *Account) *Account {
	if before == nil {
		a.used = new(usage)
	} else {
		a.used = before.used
	}
	return a
}

const day = 24 * time.Hour

// today returns the bytes used today.
func (u *usage) today(now time.Time) *atomic.Int64 {
	n := now.Unix() / int64(day/time.Second)
	if old := u.day.Load(); old != n && u.day.CompareAndSwap(old, n) {
		u.bytes.Store(0)
	}
	return &u.bytes
}

// charge takes a known caller's request from its account. One that is over a
// quota is told so, and is not held against its address.
func (x *exchange) charge() bool {
	if x.caller == nil {
		return true
	}
	a := x.snap.Accounts[x.caller.Name]
	if a == nil {
		return true
	}
	if a.Rate != nil {
		if d := a.Rate.Take(x.start); !d.OK {
			x.problem(http.StatusTooManyRequests, "over_quota", "This caller asks more often than its quota allows. Retry after the time given in Retry-After.", rateFields("caller", d)...)
			return false
		}
	}
	if a.Bytes > 0 && a.used.today(x.start).Load() >= a.Bytes {
		left := day - time.Duration(x.start.Unix()%int64(day/time.Second))*time.Second
		x.problem(http.StatusTooManyRequests, "bytes_used_up", "This caller has sent and received all that its quota allows for today (UTC).", textField{"Retry-After", retryAfter(left)})
		return false
	}
	if under := a.used.under.Add(1); a.Requests > 0 && under > a.Requests {
		a.used.under.Add(-1)
		x.problem(http.StatusTooManyRequests, "too_many_at_once", "This caller has as many requests under way as its quota allows.", textField{"Retry-After", "1"})
		return false
	}
	x.account = a
	return true
}

// settle books what a request has used, on the day it ends: of what was used
// before midnight nothing is left.
func (x *exchange) settle(now time.Time) {
	a := x.account
	if a == nil {
		return
	}
	a.used.under.Add(-1)
	if n := x.length + x.sent; n > 0 && a.Bytes > 0 {
		a.used.today(now).Add(n)
	}
}

// longestWait is the most that Prefer: wait may ask for.
const longestWait = time.Hour

// until is when a known caller stops waiting for the head of the answer; zero:
// it does not matter.
func (x *exchange) until() time.Time {
	if x.caller == nil {
		return time.Time{}
	}
	var wait time.Duration
	if a := x.account; a != nil {
		wait = a.Wait
	}
	if d, ok := preferredWait(x.msg); ok {
		wait = d
	}
	if wait <= 0 {
		return time.Time{}
	}
	return x.start.Add(wait)
}

// preferredWait reads Prefer: wait=SECONDS (RFC 7240 section 4.3).
func preferredWait(msg message) (time.Duration, bool) {
	if msg.field("Prefer") == "" {
		return 0, false
	}
	for _, v := range msg.list("Prefer") {
		for p := range strings.SplitSeq(v, ",") {
			p, _, _ = strings.Cut(p, ";")
			name, value, _ := strings.Cut(p, "=")
			if !strings.EqualFold(strings.TrimSpace(name), "wait") {
				continue
			}
			n, err := strconv.ParseUint(strings.Trim(strings.TrimSpace(value), `"`), 10, 32)
			if err != nil {
				return 0, false
			}
			return min(time.Duration(n)*time.Second, longestWait), true
		}
	}
	return 0, false
}

// welcome lets the connection of a known caller rest longer than a stranger's.
func (x *exchange) welcome() {
	if x.conn.known.Swap(true) {
		return
	}
	if hc := x.conn.h2.Load(); hc != nil {
		hc.SetIdle(x.snap.Limits.CallerIdle)
	}
}

// longest is the longer of two times without progress; 0 stands for ever.
func longest(a, b time.Duration) time.Duration {
	if a <= 0 || b <= 0 {
		return 0
	}
	return max(a, b)
}
