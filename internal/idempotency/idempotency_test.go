package idempotency

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func key(n int) (k Key) { k[0], k[1], k[2] = byte(n), byte(n>>8), 1; return k }

func TestStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New[string](Config{})
		ctx := t.Context()
		turn, _, err := s.Begin(ctx, key(1), Print{1})
		if turn == nil || err != nil {
			t.Fatalf("first: %v, %v", turn, err)
		}
		// The same comes twice while it is under way, and something else.
		got := make(chan *string, 2)
		for range 2 {
			go func() {
				_, a, _ := s.Begin(ctx, key(1), Print{1})
				got <- a
			}()
		}
		synctest.Wait()
		if _, _, err := s.Begin(ctx, key(1), Print{2}); !errors.Is(err, ErrOther) {
			t.Errorf("another request: %v", err)
		}
		text := "done"
		turn.Answer(&text, 4)
		turn.GiveUp() // too late to matter
		for range 2 {
			if a := <-got; a != &text {
				t.Errorf("who waited got %v", a)
			}
		}
		time.Sleep(DefaultTTL - time.Second)
		if _, a, _ := s.Begin(ctx, key(1), Print{1}); a != &text {
			t.Errorf("before its time: %v", a)
		}
		time.Sleep(time.Second)
		if turn, _, _ := s.Begin(ctx, key(1), Print{2}); turn == nil {
			t.Error("after its time the key is not free")
		}
		if s.bytes != 0 {
			t.Errorf("%d bytes left over", s.bytes)
		}
	})
}

// A request that was given up is carried out by one of those who wait.
func TestGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New[string](Config{})
		turn, _, _ := s.Begin(t.Context(), key(1), Print{})
		var turns, answers atomic.Int32
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				turn, a, err := s.Begin(t.Context(), key(1), Print{})
				switch {
				case turn != nil:
					turns.Add(1)
					time.Sleep(time.Second)
					turn.Answer(new(string), 1)
				case a != nil && err == nil:
					answers.Add(1)
				}
			})
		}
		synctest.Wait()
		turn.GiveUp()
		all.Wait()
		if turns.Load() != 1 || answers.Load() != 4 {
			t.Errorf("%d turns, %d answers", turns.Load(), answers.Load())
		}
	})
}

// An answer that is too large to keep is given to those who wait all the same:
// nothing happens twice at once.
func TestTooLargeToKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New[string](Config{MaxBytes: 10})
		turn, _, _ := s.Begin(t.Context(), key(1), Print{})
		got := make(chan *string)
		go func() {
			_, a, _ := s.Begin(t.Context(), key(1), Print{})
			got <- a
		}()
		synctest.Wait()
		large := "large"
		turn.Answer(&large, 11)
		if a := <-got; a != &large {
			t.Errorf("who waited got %v", a)
		}
		if turn, _, _ := s.Begin(t.Context(), key(1), Print{}); turn == nil || s.bytes != 0 {
			t.Error("it was kept")
		}
	})
}

func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New[string](Config{MaxWaiting: 1})
		turn, _, _ := s.Begin(t.Context(), key(1), Print{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		waited := make(chan error)
		go func() {
			_, _, err := s.Begin(ctx, key(1), Print{})
			waited <- err
		}()
		synctest.Wait()
		if _, _, err := s.Begin(t.Context(), key(1), Print{}); !errors.Is(err, ErrBusy) {
			t.Errorf("one more to wait: %v", err)
		}
		if err := <-waited; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waited: %v", err)
		}
		turn.GiveUp()
		if s.waiting != 0 || len(s.entries) != 0 {
			t.Errorf("%d wait, %d entries", s.waiting, len(s.entries))
		}
	})
}

// Whatever comes, the bounds hold, the books agree, and what is under way is
// never forgotten.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New[int](Config{MaxBytes: 1000, MaxEntries: 20, TTL: time.Minute})
		open := map[int]*Turn[int]{}
		answers := map[int]*int{}
		for range 20000 {
			n := rand.IntN(60)
			switch turn, a, err := s.Begin(expired, key(n), Print{}); {
			case turn != nil:
				if open[n] != nil {
					t.Fatal("two turns for one key")
				}
				open[n] = turn
			case a != nil:
				if a != answers[n] {
					t.Fatal("another's answer")
				}
			case errors.Is(err, ErrBusy):
				if len(open) < 20 {
					t.Fatal("busy with room left")
				}
			}
			for n, turn := range open {
				if rand.IntN(2) == 0 {
					answers[n] = &n
					turn.Answer(&n, int64(rand.IntN(1200)))
				} else {
					turn.GiveUp()
				}
				delete(open, n)
				if rand.IntN(3) > 0 {
					break
				}
			}
			var bytes int64
			for _, e := range s.entries {
				bytes += e.size
			}
			if len(s.entries) > 20 || s.bytes > 1000 || bytes != s.bytes || s.order.Len()+len(open) != len(s.entries) {
				t.Fatalf("%d entries, %d open, %d ordered, %d bytes, %d counted", len(s.entries), len(open), s.order.Len(), s.bytes, bytes)
			}
			time.Sleep(time.Duration(rand.IntN(4)) * time.Second)
		}
	})
}

var expired = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()
