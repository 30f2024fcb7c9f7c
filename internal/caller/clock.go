package caller

import (
	"errors"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"postern/internal/durable"
)

const (
	clockName    = "clock"         // file with the last time known, in Unix seconds
	clockSlack   = 5 * time.Minute // steps back of this much are corrections
	clockPatient = 5 * time.Minute // after the machine's start: time services take that long

	leeway = time.Minute // by which the clocks of two machines may differ
)

// clock is the time that proofs are judged by. A machine without a battery for
// its clock (a Raspberry Pi) starts in the past; until a time service has set
// it, the last time that was known counts, and what seems to come from the
// future is believed.
type clock struct {
	system func() (synced bool, up time.Duration)
	path   string
	log    *slog.Logger
	began  time.Time // of the process, with its monotonic clock

	trusted atomic.Bool
	floor   atomic.Int64 // Unix seconds: the time known when the process began, or learnt since
	told    atomic.Bool  // that the clock is not trusted
}

func newClock(path string, system func() (bool, time.Duration), log *slog.Logger) *clock {
	c := &clock{system: system, path: path, log: log, began: time.Now()}
	raw, err := readBounded(path)
	if err == nil {
		var unix int64
		if unix, err = strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64); err == nil {
			c.floor.Store(unix)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the last time known is lost", "file", path, "err", err)
	}
	c.look(c.began)
	return c
}

// look finds out whether the clock can be believed now.
func (c *clock) look(now time.Time) {
	synced, up := c.system()
	trusted := synced || up >= clockPatient && !now.Before(time.Unix(c.floor.Load(), 0).Add(-clockSlack))
	was := c.trusted.Swap(trusted)
	switch {
	case !trusted && !c.told.Swap(true):
		c.log.Warn("the clock is not set yet: callers are judged by the last time known", "clock", now.UTC(), "last_known", c.known(now).UTC())
	case trusted && !was && c.told.Swap(false):
		c.log.Info("the clock is set: callers are judged by it", "clock", now.UTC())
	}
}

// known is the last time known, gone on since the process began.
func (c *clock) known(now time.Time) time.Time {
	return time.Unix(c.floor.Load(), 0).Add(max(now.Sub(c.began), 0))
}

// judge returns the time that a proof is judged by, and whether what begins
// after it is really in the future.
func (c *clock) judge(now time.Time) (at time.Time, exact bool) {
	if c.trusted.Load() {
		return now, true
	}
	if known := c.known(now); known.After(now) {
		return known, false
	}
	return now, false
}

// learn takes a time that somebody who knows it has signed.
func (c *clock) learn(signed, now time.Time) {
	if c.trusted.Load() {
		return
	}
	began := signed.Unix() - int64(max(now.Sub(c.began), 0)/time.Second)
	for {
		old := c.floor.Load()
		if began <= old || c.floor.CompareAndSwap(old, began) {
			return
		}
	}
}

// save writes the time for the next start.
func (c *clock) save(now time.Time) {
	at, _ := c.judge(now)
	if err := durable.WriteFile(c.path, strconv.AppendInt(nil, at.Unix(), 10), 0o600); err != nil {
		c.log.Warn("the last time known is not written", "err", err)
	}
}
