package caller

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Event is a request that brought credentials, or should have.
type Event struct {
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Caller  string    `json:"caller,omitempty"`  // left out: nobody that is known
	Method  string    `json:"method,omitempty"`  // how it proved itself
	Failure string    `json:"failure,omitempty"` // why it is not known
	Client  string    `json:"client"`
	Request string    `json:"request"` // such as GET mypi.duckdns.org/orders
	Status  int       `json:"status"`  // 0: none, it was cut
	TookMS  float64   `json:"took_ms"`
}

const (
	watchKept = 512              // events that are kept for who watches
	watchFor  = 30 * time.Second // after a watcher asked, events are kept
	watchers  = 8                // that may wait at the same time
)

// watch keeps the last events while somebody watches. Those who bring events
// never wait for those who read them: what is not read in time is lost, which
// the numbers tell.
type watch struct {
	until   atomic.Int64 // Unix nanoseconds; before then somebody watches
	waiting atomic.Int32

	mu   sync.Mutex
	ring []Event       // guarded by mu; by Seq modulo watchKept
	last uint64        // guarded by mu; Seq of the latest
	news chan struct{} // guarded by mu; closed with the next event
}

// Watched reports whether somebody wants to hear of the requests at the time
// now. It costs next to nothing.
func (b *Book) Watched(now time.Time) bool { return b.registry.watch.until.Load() > now.UnixNano() }

// Note tells who watches of a request. Its texts are copied.
func (b *Book) Note(e Event) {
	w := &b.registry.watch
	e.Client, e.Request = strings.Clone(e.Client), strings.Clone(e.Request)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ring == nil {
		w.ring = make([]Event, watchKept)
	}
	w.last++
	e.Seq = w.last
	w.ring[e.Seq%watchKept] = e
	if w.news != nil {
		close(w.news)
		w.news = nil
	}
}

// Watch returns the events after the one with the number seq, oldest first;
// when there are none it waits for some until ctx ends. A seq of 0, or of
// another process, begins with what comes next. It returns the number to ask
// with next.
func (r *Registry) Watch(ctx context.Context, seq uint64) ([]Event, uint64) {
	w := &r.watch
	w.until.Store(time.Now().Add(watchFor).UnixNano())
	if w.waiting.Add(1) > watchers {
		w.waiting.Add(-1)
		return nil, seq
	}
	defer w.waiting.Add(-1)
	for {
		events, last, news := w.after(seq)
		if len(events) > 0 {
			return events, last
		}
		seq = last
		select {
		case <-news:
		case <-ctx.Done():
			return nil, seq
		}
	}
}

// after returns what is kept of the events after seq, or what to wait for.
func (w *watch) after(seq uint64) ([]Event, uint64, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if seq == 0 || seq > w.last {
		seq = w.last
	}
	var out []Event
	for i := max(seq+1, w.last+1-min(w.last, watchKept-1)); i <= w.last; i++ {
		out = append(out, w.ring[i%watchKept])
	}
	if w.news == nil {
		w.news = make(chan struct{})
	}
	return out, w.last, w.news
}
