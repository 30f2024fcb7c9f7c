package caller

import (
	"crypto/sha256"
	"sync"
	"time"
)

const (
	signedSpan = 5 * time.Minute       // a signature is good before and after its time
	seenSpan   = 2*signedSpan + leeway // after which one that was seen has ended
	maxSeen    = 128 << 10             // signatures of one span that are remembered
)

// replays remembers the signatures that were used. There are two generations,
// so that forgetting is cheap; what is remembered has ended when it is
// forgotten. When too many come for that, the time from which on signatures
// are good moves nearer instead: nothing is ever taken twice.
type replays struct {
	metrics *metrics
	exact   func() bool // whether the clock is set

	mu     sync.Mutex
	max    int
	now    map[[16]byte]struct{} // guarded by mu
	before map[[16]byte]struct{} // guarded by mu
	newest [2]time.Time          // guarded by mu; the latest signature of now and of before
	turned time.Time             // guarded by mu; when now began
	floor  time.Time             // guarded by mu; what was signed before or then is not taken
}

// newReplays begins empty: what was signed before known, the time of the start
// as far as it is known, may have been used at an earlier process, and is not
// taken. start is the same by the machine's clock, which may not be set yet.
func newReplays(start, known time.Time, exact func() bool, m *metrics) *replays {
	return &replays{
		metrics: m, exact: exact, max: maxSeen, now: make(map[[16]byte]struct{}), before: make(map[[16]byte]struct{}),
		turned: start, floor: known.Truncate(time.Second).Add(-time.Second),
	}
}

// use takes a proof that was signed at a time, and reports why not.
func (r *replays) use(proof []byte, signed, now time.Time) Failure {
	sum := sha256.Sum256(proof)
	id := [16]byte(sum[:16])
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.turned) >= seenSpan {
		r.turn(now)
	}
	// What was known before the clock was set was wrong: nothing that is good
	// now is signed later than this.
	if most := now.Add(signedSpan); r.floor.After(most) && r.exact() {
		r.floor = most
	}
	if !signed.After(r.floor) {
		return Expired
	}
	if _, seen := r.now[id]; seen {
		return Replayed
	}
	if _, seen := r.before[id]; seen {
		return Replayed
	}
	if len(r.now) >= r.max {
		if r.newest[1].After(r.floor) {
			r.floor = r.newest[1]
		}
		r.metrics.seenEvicted.Add(float64(len(r.before)))
		r.turn(now)
	}
	r.now[id] = struct{}{}
	if signed.After(r.newest[0]) {
		r.newest[0] = signed
	}
	return NoCredentials
}

// turn forgets the older generation. mu is held.
func (r *replays) turn(now time.Time) {
	r.before, r.now = r.now, make(map[[16]byte]struct{})
	r.newest = [2]time.Time{{}, r.newest[0]}
	r.turned = now
}
