package caller

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"postern/internal/testnet"
)

// A machine without a battery starts in the past. What was signed before the
// last time known may have been used before the restart, and is not taken.
func TestNoReplayAfterRestartWithoutClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins in the year 2000
		dir := t.TempDir()
		known := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
		if err := os.WriteFile(filepath.Join(dir, clockName), strconv.AppendInt(nil, known.Unix(), 10), 0o600); err != nil {
			t.Fatal(err)
		}
		reg, err := New(Config{Dir: dir, Clock: func() (bool, time.Duration) { return false, time.Minute }})
		if err != nil {
			t.Fatal(err)
		}
		book, err := reg.Prepare([]Caller{shop(false)})
		if err != nil {
			t.Fatal(err)
		}
		judge := func(signed time.Time) Result {
			r := awsSigned(t, "GET", "/", "", signed, nil, "")
			r.Now = time.Now()
			return book.Identify(r)
		}
		if res := judge(known.Add(-2 * time.Minute)); res.Identity != nil {
			t.Error("what was signed before the restart is taken")
		}
		if res := judge(known.Add(10 * time.Second)); res.Identity == nil {
			t.Errorf("what was signed after it: %v", res.Failure)
		}
		if res := judge(known.Add(10 * time.Second)); res.Failure != Replayed {
			t.Errorf("the same again: %v", res.Failure)
		}
	})
}

// A last time known that was wrong locks nobody out for longer than a signature
// is good, once the clock is set.
func TestWrongTimeKnownHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins in the year 2000
		dir := t.TempDir()
		wrong := time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)
		if err := os.WriteFile(filepath.Join(dir, clockName), strconv.AppendInt(nil, wrong.Unix(), 10), 0o600); err != nil {
			t.Fatal(err)
		}
		set := false
		reg, err := New(Config{Dir: dir, Clock: func() (bool, time.Duration) { return set, time.Minute }})
		if err != nil {
			t.Fatal(err)
		}
		book, err := reg.Prepare([]Caller{shop(false)})
		if err != nil {
			t.Fatal(err)
		}
		judge := func() Result { return book.Identify(awsSigned(t, "GET", "/", "", time.Now(), nil, "")) }
		if res := judge(); res.Identity != nil {
			t.Error("what seems to be long over is taken")
		}
		set = true
		reg.clock.look(time.Now())
		_ = judge() // may be one that was used before the start
		time.Sleep(signedSpan + 2*time.Second)
		if res := judge(); res.Identity == nil {
			t.Errorf("after the clock was set: %v", res.Failure)
		}
	})
}

// A key that is taken back while a reload is under way stays taken back.
func TestRevokedDuringReload(t *testing.T) {
	dir := t.TempDir()
	reg, err := New(Config{Dir: dir, Clock: synced})
	if err != nil {
		t.Fatal(err)
	}
	store, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	text, _, err := store.AddKey("orders", time.Time{}, now)
	if err != nil {
		t.Fatal(err)
	}
	prepare := func() *Book {
		b, err := reg.Prepare([]Caller{{Name: "orders"}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	judge := func(b *Book) Result {
		return b.Identify(&Request{Fields: fields{}, Now: now.Add(time.Minute), Credentials: Credentials{APIKey: text}})
	}
	reg.Use(prepare())
	next := prepare()
	if res := judge(next); res.Identity == nil {
		t.Fatal(res.Failure)
	}
	if _, err := store.Revoke("orders", "", now); err != nil {
		t.Fatal(err)
	}
	if err := reg.Reload(); err != nil {
		t.Fatal(err)
	}
	reg.Use(next)
	if res := judge(next); res.Failure != ExpiredKey {
		t.Errorf("after the reload: %v", res.Failure)
	}
}

// Requests never wait for the lock that is held while files are written.
func TestOwnTokenWaitsForNoFile(t *testing.T) {
	a := testnet.NewAWS(t)
	d := newDesk(t, t.TempDir(), synced, byHand(a))
	d.stop()
	now := time.Now()
	token := d.book.ownToken(d.book.byName["orders"], awsPrincipal{"123456789012", "arn:aws:sts::123456789012:assumed-role/orders/one"}, now).Token
	d.reg.mu.Lock()
	defer d.reg.mu.Unlock()
	done := make(chan Result, 1)
	go func() { done <- d.bearer(token, now) }()
	select {
	case res := <-done:
		if res.Failure == BadSignature {
			t.Error(res.Failure)
		}
	case <-time.After(patience):
		t.Error("a request waits for the disk")
	}
}
