package upstream

import "time"

// A learned limit never falls below shortestIdle: a backend that restarts
// closes connections of any age, and one that closes everything at once is
// better served by the liveness check and the resend than by a dial for each
// request. It doubles with every idleRecovery that passes without a closed
// connection.
const (
	shortestIdle = 250 * time.Millisecond
	idleRecovery = time.Minute
)

// keepAlive knows how long a backend keeps idle connections open. The zero
// value knows nothing.
type keepAlive struct {
	told    time.Duration // by its last Keep-Alive: timeout=, less a margin; 0 not told
	learned time.Duration // from connections it closed earlier; 0 none
	at      time.Time     // of the last such closing
}

// limit is how long a connection may be kept, most at the longest.
func (k *keepAlive) limit(most time.Duration, now time.Time) time.Duration {
	if k.told > 0 {
		most = min(most, k.told)
	}
	if k.learned == 0 {
		return most
	}
	if steps := now.Sub(k.at) / idleRecovery; steps < 16 {
		return min(most, k.learned<<max(steps, 0))
	}
	return most
}

// tell notes the seconds of a Keep-Alive field: a second less is safe against
// the way of the last request, half of it for a limit that short. It reports
// whether that changed anything.
func (k *keepAlive) tell(seconds int) bool {
	d := time.Duration(seconds) * time.Second
	d = max(d-time.Second, d/2)
	changed := k.told != d
	k.told = d
	return changed
}

// closed notes that a connection was found closed by the backend after it had
// been idle for age.
func (k *keepAlive) closed(most, age time.Duration, now time.Time) {
	limit := k.limit(most, now)
	if age >= limit {
		return
	}
	k.learned = min(limit, max(age-age/4, shortestIdle))
	k.at = now
}
