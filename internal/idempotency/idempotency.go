// Package idempotency lets a request that is sent again have the answer of the
// first time, instead of happening twice
// (draft-ietf-httpapi-idempotency-key-header).
//
// It holds answers in memory, bounded in number, size and time, and knows
// nothing of HTTP: who asked, what a request is and what an answer, is the
// caller's business.
package idempotency

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config bounds a Store. The zero value has the defaults.
type Config struct {
	// TTL is how long an answer is kept after it was given. Zero means 10
	// min.
	TTL time.Duration

	// MaxBytes bounds the answers held together. Zero means 16 MiB. The
	// oldest go first.
	MaxBytes int64

	// MaxEntries bounds keys, under way and answered. Zero means 4096.
	MaxEntries int

	// MaxWaiting bounds requests that wait for another with the same key.
	// Zero means 256.
	MaxWaiting int

	// Registerer gets the metrics. Nil: none.
	Registerer prometheus.Registerer
}

// The defaults of Config.
const (
	DefaultTTL     = 10 * time.Minute
	defaultBytes   = 16 << 20
	defaultEntries = 4096
	defaultWaiting = 256
)

// Key stands for one intent of one client: a hash of everything that scopes
// it, so that nobody gets another's answer.
type Key [32]byte

// Print stands for what was asked: a hash of the request.
type Print [32]byte

// The reasons of Begin to refuse.
var (
	// ErrOther: the key stands for another request already. The answer is
	// 422.
	ErrOther = errors.New("idempotency: the key was used for another request")

	// ErrBusy: no room for one more under way, or to wait. The answer is 503.
	ErrBusy = errors.New("idempotency: too many requests with keys are under way")
)

// Store remembers answers. Make it with New. Its methods may be called from
// any goroutine.
type Store[A any] struct {
	cfg     Config
	metrics *metrics

	mu      sync.Mutex
	entries map[Key]*entry[A]
	order   *list.List // of answered entries, oldest first; values are *entry[A]
	bytes   int64
	waiting int
}

// entry is one key. mu of the Store guards it.
type entry[A any] struct {
	key     Key
	print   Print
	done    chan struct{} // closed when answered or given up
	answer  *A            // nil: under way
	size    int64
	until   time.Time
	element *list.Element
}

// New makes an empty store. It starts nothing.
func New[A any](cfg Config) *Store[A] {
	if cfg.TTL <= 0 {
		cfg.TTL = DefaultTTL
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = defaultBytes
	}
	if cfg.MaxEntries <= 0 {
		cfg.MaxEntries = defaultEntries
	}
	if cfg.MaxWaiting <= 0 {
		cfg.MaxWaiting = defaultWaiting
	}
	return &Store[A]{cfg: cfg, metrics: newMetrics(cfg.Registerer), entries: make(map[Key]*entry[A]), order: list.New()}
}

// Turn is the right, and the duty, to carry one request out: exactly one of
// Answer and GiveUp ends it, and a second call of either does nothing.
type Turn[A any] struct {
	s *Store[A]
	e *entry[A]
}

// Begin says what becomes of a request with this key. One of three things:
//
//   - a Turn: nobody has carried it out, the caller does now;
//   - an answer: it was carried out before, perhaps while Begin waited for
//     that. It is shared: nobody may change it;
//   - an error: ErrOther, ErrBusy, or that of ctx, which ended while another
//     request with the key was under way.
func (s *Store[A]) Begin(ctx context.Context, key Key, print Print) (*Turn[A], *A, error) {
	for {
		turn, answer, wait, err := s.begin(key, print, time.Now())
		if wait == nil {
			return turn, answer, err
		}
		select {
		case <-wait.done:
			if answer := s.leave(wait); answer != nil { // even if it is forgotten already
				return nil, answer, nil
			}
		case <-ctx.Done():
			s.leave(wait)
			s.metrics.count("gave_up")
			return nil, nil, ctx.Err()
		}
	}
}

func (s *Store[A]) begin(key Key, print Print, now time.Time) (*Turn[A], *A, *entry[A], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
	e := s.entries[key]
	switch {
	case e == nil:
		if !s.room() {
			s.metrics.count("busy")
			return nil, nil, nil, ErrBusy
		}
		e = &entry[A]{key: key, print: print, done: make(chan struct{})}
		s.entries[key] = e
		s.metrics.count("first")
		return &Turn[A]{s, e}, nil, nil, nil
	case e.print != print:
		s.metrics.count("other")
		return nil, nil, nil, ErrOther
	case e.answer != nil:
		s.metrics.count("again")
		return nil, e.answer, nil, nil
	case s.waiting >= s.cfg.MaxWaiting:
		s.metrics.count("busy")
		return nil, nil, nil, ErrBusy
	}
	s.waiting++
	s.metrics.count("waited")
	return nil, nil, e, nil
}

// leave ends the wait for e and returns its answer, nil if there is none.
func (s *Store[A]) leave(e *entry[A]) *A {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting--
	return e.answer
}

// room makes room for one more entry; only answered ones are let go. mu is
// held.
func (s *Store[A]) room() bool {
	for len(s.entries) >= s.cfg.MaxEntries {
		oldest := s.order.Front()
		if oldest == nil {
			return false
		}
		s.drop(oldest.Value.(*entry[A]))
		s.metrics.evicted()
	}
	return true
}

// expire lets go of what is too old. mu is held.
func (s *Store[A]) expire(now time.Time) {
	for oldest := s.order.Front(); oldest != nil; oldest = s.order.Front() {
		e := oldest.Value.(*entry[A])
		if now.Before(e.until) {
			return
		}
		s.drop(e)
	}
}

// drop forgets an answered entry. mu is held.
func (s *Store[A]) drop(e *entry[A]) {
	s.order.Remove(e.element)
	s.bytes -= e.size
	delete(s.entries, e.key)
	s.metrics.hold(s.order.Len(), s.bytes)
}

// Answer gives a, of size bytes, to whoever waits, and keeps it for whoever
// comes with the key again. One that is larger than the store is not kept.
func (t *Turn[A]) Answer(a *A, size int64) {
	s := t.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if !t.ends() {
		return
	}
	e := t.e
	e.answer = a
	if size > s.cfg.MaxBytes {
		delete(s.entries, e.key)
		return
	}
	for s.bytes+size > s.cfg.MaxBytes {
		s.drop(s.order.Front().Value.(*entry[A]))
		s.metrics.evicted()
	}
	e.size, e.until = size, time.Now().Add(s.cfg.TTL)
	e.element = s.order.PushBack(e)
	s.bytes += size
	s.metrics.hold(s.order.Len(), s.bytes)
}

// GiveUp says that there is no answer to keep: whoever waits, or comes again,
// carries the request out.
func (t *Turn[A]) GiveUp() {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.ends() {
		delete(t.s.entries, t.e.key)
	}
}

// ends takes the duty off the turn, and wakes those who wait; they look when
// mu is free. It reports false if it has ended already. mu is held.
func (t *Turn[A]) ends() bool {
	select {
	case <-t.e.done:
		return false
	default:
		close(t.e.done)
		return true
	}
}
