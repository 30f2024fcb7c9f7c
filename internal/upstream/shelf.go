package upstream

import (
	"io"
	"time"
)

// shelf keeps the idle HTTP/1.1 connections of one kind to one backend,
// longest idle first: the newest is taken first, so that those beyond what the
// load needs grow old and are closed. It is guarded by its backend's lock.
type shelf[C io.Closer] struct {
	list []kept[C]
}

type kept[C io.Closer] struct {
	conn  C
	since time.Time
}

// take returns the connection that is idle for the shortest time, unless that
// is too long already: then so it is for all the others, and the sweeper is on
// its way.
func (s *shelf[C]) take(now time.Time, limit time.Duration) (c C, idle time.Duration, ok bool) {
	last := len(s.list) - 1
	if last < 0 {
		return c, 0, false
	}
	k := s.list[last]
	if idle = idleFor(k.since, now); idle >= limit {
		return c, 0, false
	}
	s.list[last] = kept[C]{}
	s.list = s.list[:last]
	return k.conn, idle, true
}

// put keeps c. When there are most already, the longest idle one is returned,
// for the caller to close.
func (s *shelf[C]) put(c C, now time.Time, most int) (oldest C, full bool) {
	if full = len(s.list) >= most; full {
		oldest = s.list[0].conn
		copy(s.list, s.list[1:])
		s.list = s.list[:len(s.list)-1]
	}
	s.list = append(s.list, kept[C]{c, now})
	return oldest, full
}

// expire moves what has been idle for limit to dead.
func (s *shelf[C]) expire(dead []io.Closer, now time.Time, limit time.Duration) []io.Closer {
	n := 0
	for n < len(s.list) && idleFor(s.list[n].since, now) >= limit {
		dead = append(dead, s.list[n].conn)
		n++
	}
	if n > 0 {
		left := append(s.list[:0], s.list[n:]...)
		clear(s.list[len(left):])
		s.list = left
	}
	return dead
}

// left is how long the first connection may stay yet; never 0, so that a
// timer set to it makes progress.
func (s *shelf[C]) left(now time.Time, limit time.Duration) (d time.Duration, ok bool) {
	if len(s.list) == 0 {
		return 0, false
	}
	return max(limit-idleFor(s.list[0].since, now), time.Millisecond), true
}

// idleFor is the time since then. Both clocks count: the monotonic one stands
// still while the machine sleeps.
func idleFor(since, now time.Time) time.Duration {
	return max(now.Sub(since), now.Round(0).Sub(since.Round(0)))
}
