package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"sync"
	"time"

	"postern/internal/durable"
)

const (
	// saveEvery is how long a ban may be lost to a power cut.
	saveEvery = time.Minute
	// maxFile is far more than the largest table needs.
	maxFile = 64 << 20
	// fileVersion is what this code writes, and all it reads.
	fileVersion = 1
)

// saver is what Load and Run know about the file.
type saver struct {
	mu      sync.Mutex
	version uint64 // guarded by mu; of the bans that are in the file
	failing bool   // guarded by mu
}

// banFile is the file. Times are wall-clock times.
type banFile struct {
	Version int         `json:"version"`
	Saved   time.Time   `json:"saved"`
	Bans    []bannedOne `json:"bans"`
}

type bannedOne struct {
	Prefix  netip.Prefix   `json:"prefix"`
	Reason  string         `json:"reason"`
	Since   time.Time      `json:"since"`
	Until   time.Time      `json:"until"`
	First   time.Time      `json:"first,omitzero"`
	Last    time.Time      `json:"last,omitzero"`
	Signals map[string]int `json:"signals,omitempty"`
	Past    int            `json:"past,omitempty"`
	Note    string         `json:"note,omitempty"`
}

// parseBans reads a file. Its error means that the file as a whole is not to
// be trusted.
func parseBans(data []byte) (*banFile, error) {
	var f banFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if f.Version != fileVersion {
		return nil, fmt.Errorf("version %d, want %d", f.Version, fileVersion)
	}
	return &f, nil
}

// record turns an entry into a record at the guard's time at, when the wall
// clock says now; ok is false if there is no sense in it or nothing left of
// it.
//
// A clock behind the time of saving is a machine without a battery that has
// not heard of the time yet: then the ban has what it had left when it was
// saved. In no case it lasts longer from here than it was given in all.
func (b *bannedOne) record(saved, now time.Time, at int64, forget time.Duration) (r banRecord, ok bool) {
	reason, known := reasonNamed(b.Reason)
	length := b.Until.Sub(b.Since)
	k, valid := keyOfPrefix(b.Prefix)
	if !known || length <= 0 || length > maxManual || !valid {
		return r, false
	}
	if now.Before(saved) {
		now = saved
	}
	left := min(b.Until.Sub(now), length)
	if left < -forget {
		return r, false
	}
	r = banRecord{
		key:    k,
		since:  at + int64(left-length),
		until:  at + int64(left),
		past:   uint8(min(max(b.Past, 0), maxPast)),
		reason: reason,
	}
	for name, n := range b.Signals {
		if s, ok := SignalNamed(name); ok {
			r.counts[s] = uint8(min(max(n, 0), maxCount))
		}
	}
	before := func(t time.Time) int64 {
		return r.since - int64(min(max(b.Since.Sub(t), -length), maxManual))
	}
	if !r.counts.none() {
		r.first, r.last = before(b.First), before(b.Last)
	}
	return r, true
}

// Load restores the bans of the last run with what is left of their time. It
// is to be called once, before Run and before the first connection. It never
// stops the start: a file that is damaged is moved aside, to the same name
// with .corrupt at the end, and told in the log, as is one that is not
// readable.
func (g *Guard) Load(now time.Time) {
	if g.file == "" {
		return
	}
	data, err := readFile(g.file)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		g.log.Error("bans not restored", "file", g.file, "err", err)
		return
	}
	f, err := parseBans(data)
	if err != nil {
		aside := g.file + ".corrupt"
		if moveErr := os.Rename(g.file, aside); moveErr != nil {
			err = errors.Join(err, moveErr)
		}
		g.log.Error("bans not restored: file moved aside", "file", g.file, "to", aside, "err", err)
		return
	}
	restored, skipped := g.restore(f, now)
	g.log.Info("bans restored", "count", restored, "skipped", skipped)
}

// restore puts the entries of f into the table.
func (g *Guard) restore(f *banFile, now time.Time) (restored, skipped int) {
	p := g.policy.Load()
	at := g.at(now)
	g.saver.mu.Lock()
	defer g.saver.mu.Unlock()
	g.bans.mu.Lock()
	defer g.bans.mu.Unlock()
	for i := range f.Bans {
		b := &f.Bans[i]
		r, ok := b.record(f.Saved.Round(0), now.Round(0), at, p.forget)
		if !ok || g.spared(p, b.Prefix.Addr()) {
			skipped++
			continue
		}
		r.shared = g.isShared(b.Prefix.Addr()) || g.isShared(lastAddr(b.Prefix))
		if _, full := g.bans.putLocked(r, at); full {
			skipped++
			continue
		}
		if r.reason == reasonManual && b.Note != "" {
			g.bans.notes[r.key] = b.Note
		}
		restored++
	}
	g.saver.version = g.bans.version
	return restored, skipped
}

// readFile is os.ReadFile with a bound.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s: larger than %d bytes", name, maxFile)
	}
	return data, err
}

// Run keeps the bans on disk until ctx ends: at most once a minute, when they
// changed, and at the end. It also forgets the bans that ended long ago. Its
// error is the last save's; one before is told in the log and tried again.
func (g *Guard) Run(ctx context.Context) error {
	ticker := time.NewTicker(saveEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return g.save(time.Now())
		case now := <-ticker.C:
			g.bans.mu.Lock()
			g.bans.forgetLocked(g.at(now) - int64(g.policy.Load().forget))
			g.bans.mu.Unlock()
			g.report(g.save(now))
		}
	}
}

// report tells a failed save when it begins to fail and when it works again.
func (g *Guard) report(err error) {
	g.saver.mu.Lock()
	defer g.saver.mu.Unlock()
	switch failing := err != nil; {
	case failing && !g.saver.failing:
		g.log.Error("bans not saved: they will not survive a restart", "err", err, "retry_in", saveEvery)
	case !failing && g.saver.failing:
		g.log.Info("bans saved again")
	}
	g.saver.failing = err != nil
}

// save writes the bans, if they are not what the file holds already.
func (g *Guard) save(now time.Time) error {
	if g.file == "" {
		return nil
	}
	g.saver.mu.Lock()
	defer g.saver.mu.Unlock()
	g.bans.mu.Lock()
	version := g.bans.version
	g.bans.mu.Unlock()
	if version == g.saver.version {
		return nil
	}
	records, notes, version := g.bans.snapshot(func(r *banRecord) bool { return !r.trial })
	f := banFile{Version: fileVersion, Saved: now.UTC(), Bans: make([]bannedOne, len(records))}
	for i := range records {
		f.Bans[i] = entryOf(g.export(&records[i], notes[records[i].key], now))
	}
	data, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("bans: encode: %w", err)
	}
	if err := durable.WriteFile(g.file, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("bans: %w", err)
	}
	g.saver.version = version
	return nil
}

// entryOf is the file's form of a ban.
func entryOf(b Ban) bannedOne {
	e := bannedOne{
		Prefix: b.Prefix,
		Reason: b.Reason,
		Since:  b.Since.UTC(),
		Until:  b.Until.UTC(),
		Past:   b.Past,
		Note:   b.Note,
	}
	if len(b.Signals) > 0 {
		e.First, e.Last = b.First.UTC(), b.Last.UTC()
		e.Signals = make(map[string]int, len(b.Signals))
		for _, s := range b.Signals {
			e.Signals[s.Signal.String()] = s.Count
		}
	}
	return e
}
