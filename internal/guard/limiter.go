package guard

import (
	"hash/maphash"
	"math"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A Rate is so many events per time. A Rate that is not positive in both
// fields bounds nothing.
type Rate struct {
	Events int
	Per    time.Duration
}

// A Decision is the answer of a limiter to one event.
type Decision struct {
	// OK tells whether the event is within the rate.
	OK bool
	// Limit is the number of events that may come at once, the burst; 0 when
	// nothing is bounded.
	Limit int
	// Remaining is how many more may come now.
	Remaining int
	// Window is the time in which Limit events become free again.
	Window time.Duration
	// RetryAfter is how long to wait for the next one; 0 when OK.
	RetryAfter time.Duration
	// Reset is how long until Limit events may come at once again.
	Reset time.Duration
}

// gcra is the generic cell rate algorithm (ITU-T I.371) on one number: the
// theoretical arrival time tat, at which the client has used up nothing. Each
// event moves it by interval, and may not move it further than window ahead
// of now.
type gcra struct {
	interval int64 // nanoseconds per event
	window   int64 // burst × interval
	burst    int64
}

// newGCRA returns the algorithm's constants; ok is false for a rate that
// bounds nothing. A burst below 1 means the number of events in the rate.
func newGCRA(rate Rate, burst int) (g gcra, ok bool) {
	if rate.Events <= 0 || rate.Per <= 0 {
		return g, false
	}
	if burst < 1 {
		burst = rate.Events
	}
	g.interval = max(int64(rate.Per)/int64(rate.Events), 1)
	// 10 years ahead is as good as any more, and can be added to a time.
	g.burst = max(min(int64(burst), int64(maxManual)/g.interval), 1)
	g.window = g.burst * g.interval
	return g, true
}

// take decides about one event at now and returns the new arrival time.
func (g gcra) take(tat, now int64) (next int64, d Decision) {
	// A time further ahead than the window allows comes from a clock that was
	// set back.
	tat = min(max(tat, now), now+g.window)
	next = tat + g.interval
	d = Decision{OK: next-now <= g.window, Limit: int(g.burst), Window: time.Duration(g.window)}
	if !d.OK {
		d.RetryAfter = time.Duration(next - now - g.window)
		next = tat
	}
	d.Remaining = int((g.window - (next - now)) / g.interval)
	d.Reset = time.Duration(next - now)
	return next, d
}

// A Limiter bounds how often each address may do something. It keeps a fixed
// number of addresses; when there are more, the one that has used least goes
// first, which costs nothing if it has used nothing lately, and is counted
// otherwise. The key is the address alone (IPv6: its /64 network): nothing a
// client sends chooses it.
//
// A Limiter may be shared and outlive the Guard it came from, so that a
// reload that leaves the rate alone keeps what was counted. All methods are
// safe for concurrent use; a nil Limiter bounds nothing.
type Limiter struct {
	gcra
	epoch   time.Time
	seed    maphash.Seed
	mask    uint64
	evicted prometheus.Counter // nil: not counted
	locks   [stripes]stripe
	slots   []arrival // guarded by the lock of their set
}

type arrival struct {
	key key
	tat int64
}

// defaultLimiterSlots is what a limiter keeps when it is not told.
const defaultLimiterSlots = 16384

// NewLimiter makes a limiter of rate per address, of which burst may come at
// once; burst 0 means the number of events in the rate. slots is the number
// of addresses to keep, 16 bytes each, raised to a power of two; 0 means
// 16384. It returns nil, which bounds nothing, for a rate that is not
// positive.
func NewLimiter(rate Rate, burst, slots int) *Limiter {
	algorithm, ok := newGCRA(rate, burst)
	if !ok {
		return nil
	}
	n := roundSlots(orDefault(slots, defaultLimiterSlots))
	return &Limiter{
		gcra:  algorithm,
		epoch: time.Now(),
		seed:  maphash.MakeSeed(),
		mask:  uint64(n/ways - 1),
		slots: make([]arrival, n),
	}
}

// NewLimiter makes a limiter whose evictions count among the guard's, in
// postern_guard_table_evictions_total{table="limiter"}.
func (g *Guard) NewLimiter(rate Rate, burst, slots int) *Limiter {
	l := NewLimiter(rate, burst, slots)
	if l != nil {
		l.evicted = g.metrics.limiterEvictions
	}
	return l
}

// Take counts one event of addr, unless it is over the rate.
func (l *Limiter) Take(addr netip.Addr, now time.Time) Decision {
	if l == nil {
		return Decision{OK: true}
	}
	k := keyOf(canonical(addr))
	if k == 0 {
		k = keyZero // peers without an address share one slot
	}
	at := int64(now.Sub(l.epoch))
	set := k.hash(l.seed) & l.mask
	lock := &l.locks[set%stripes]
	lock.Lock()
	slot, evicted := l.find(set, k, at)
	next, d := l.take(slot.tat, at)
	slot.tat = next
	lock.Unlock()
	if evicted && l.evicted != nil {
		l.evicted.Inc()
	}
	return d
}

// find returns k's slot in set, making it from an empty one or the one whose
// arrival time is first.
func (l *Limiter) find(set uint64, k key, now int64) (slot *arrival, evicted bool) {
	slots := l.slots[set*ways : set*ways+ways]
	first := &slots[0]
	for i := range slots {
		switch slots[i].key {
		case k:
			return &slots[i], false
		case 0:
			slots[i] = arrival{k, now}
			return &slots[i], false
		}
		if slots[i].tat < first.tat {
			first = &slots[i]
		}
	}
	evicted = first.tat > now
	*first = arrival{k, now}
	return first, evicted
}

// A Single bounds how often something happens, whoever does it. It takes no
// lock. All methods are safe for concurrent use; a nil Single bounds nothing.
type Single struct {
	gcra
	epoch time.Time
	tat   atomic.Int64
}

// NewSingle makes a limiter of rate with the given burst; burst 0 means the
// number of events in the rate. It returns nil, which bounds nothing, for a
// rate that is not positive.
func NewSingle(rate Rate, burst int) *Single {
	algorithm, ok := newGCRA(rate, burst)
	if !ok {
		return nil
	}
	s := &Single{gcra: algorithm, epoch: time.Now()}
	s.tat.Store(math.MinInt64)
	return s
}

// Take counts one event, unless it is over the rate.
func (s *Single) Take(now time.Time) Decision {
	if s == nil {
		return Decision{OK: true}
	}
	at := int64(now.Sub(s.epoch))
	for {
		tat := s.tat.Load()
		next, d := s.take(tat, at)
		if !d.OK || s.tat.CompareAndSwap(tat, next) {
			return d
		}
	}
}

// AppendPolicy appends the value of a RateLimit-Policy header field
// (draft-ietf-httpapi-ratelimit-headers-10 section 3) to b: the quota and, in
// seconds, the window in which it becomes free again, such as
// "default";q=40;w=2. name must hold printable ASCII without quotes and
// backslashes, as the names of a config do; other characters are left out.
// Several policies are joined with ", ".
func (d Decision) AppendPolicy(b []byte, name string) []byte {
	b = appendString(b, name)
	b = append(b, ";q="...)
	b = strconv.AppendInt(b, int64(d.Limit), 10)
	b = append(b, ";w="...)
	return strconv.AppendInt(b, seconds(d.Window), 10)
}

// AppendState appends the value of a RateLimit header field (section 4 of the
// same draft) to b: what remains, and the seconds until more is free, such as
// "default";r=12;t=2. When nothing remains that is the value of Retry-After.
func (d Decision) AppendState(b []byte, name string) []byte {
	b = appendString(b, name)
	b = append(b, ";r="...)
	b = strconv.AppendInt(b, int64(d.Remaining), 10)
	b = append(b, ";t="...)
	if !d.OK {
		return d.AppendRetryAfter(b)
	}
	return strconv.AppendInt(b, seconds(d.Reset), 10)
}

// AppendRetryAfter appends the value of a Retry-After header field (RFC 9110
// section 10.2.3) to b: whole seconds, rounded up, so that a client that
// obeys is let in.
func (d Decision) AppendRetryAfter(b []byte) []byte {
	return strconv.AppendInt(b, seconds(d.RetryAfter), 10)
}

// seconds rounds up.
func seconds(d time.Duration) int64 {
	return int64((d + time.Second - 1) / time.Second)
}

// appendString appends s as a String of RFC 9651 section 3.3.3.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		if c := s[i]; c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			b = append(b, c)
		}
	}
	return append(b, '"')
}
