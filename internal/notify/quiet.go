package notify

import (
	"fmt"
	"time"
)

// Clock is a time of day, as minutes after midnight.
type Clock int

// ParseClock reads "22:00".
func ParseClock(s string) (Clock, error) {
	t, err := time.Parse("15:04", s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a time of day, want one such as 22:00", s)
	}
	return Clock(t.Hour()*60 + t.Minute()), nil
}

// next returns the first time after now at which clocks show c, in the time
// zone of now. Where a change of the clocks leaves c out, it is the time right
// after the gap.
func (c Clock) next(now time.Time) time.Time {
	y, m, d := now.Date()
	for i := 0; ; i++ {
		if t := time.Date(y, m, d+i, int(c)/60, int(c)%60, 0, 0, now.Location()); t.After(now) {
			return t
		}
	}
}

// Quiet is the part of the day in which only urgent messages go out. It may
// pass midnight. The zero value is no time at all.
type Quiet struct{ From, To Clock }

// end returns when the quiet time that now falls in is over, and now itself
// outside of it.
func (q Quiet) end(now time.Time) time.Time {
	if q.From == q.To {
		return now
	}
	at := Clock(now.Hour()*60 + now.Minute())
	inside := q.From <= at && at < q.To
	if q.From > q.To {
		inside = at >= q.From || at < q.To
	}
	if !inside {
		return now
	}
	return q.To.next(now)
}
