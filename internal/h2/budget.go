package h2

import "time"

// budget is what is left of a Budget. Time is looked at only when it has run
// out, so that the common case costs a subtraction.
type budget struct {
	Budget
	left int
	last time.Time // when it was last filled
}

func newBudget(b Budget, now time.Time) budget { return budget{Budget: b, left: b.Burst, last: now} }

// take spends n and reports whether there was enough.
func (b *budget) take(n int) bool {
	b.left -= n
	return b.left >= 0 || b.refill(time.Now())
}

// refill adds what came in since the last time.
func (b *budget) refill(now time.Time) bool {
	come := now.Sub(b.last).Seconds() * float64(b.PerSecond)
	if come >= 1 {
		b.left = int(min(float64(b.left)+come, float64(b.Burst)))
		b.last = now
	}
	return b.left >= 0
}

// earn gives n back, up to the burst.
func (b *budget) earn(n int) { b.left = min(b.left+n, b.Burst) }
