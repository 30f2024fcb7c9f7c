package h2

import "sync"

// maxIdleWorkers is how many goroutines wait for work; beyond it they end.
const maxIdleWorkers = 64

// workers are goroutines that wait for a job, the last used first: its stack
// has grown already and is warm.
type workers struct {
	mu     sync.Mutex
	idle   []chan job // guarded by mu; each holds one job
	closed bool       // guarded by mu
	live   sync.WaitGroup
}

// job is a request to answer or, without one, a buffer to write.
type job struct {
	c  *Conn
	st *Stream
}

// run has j done by an idle goroutine or a new one. It does not block.
func (w *workers) run(j job) {
	w.mu.Lock()
	n := len(w.idle)
	if n == 0 {
		w.live.Add(1)
		w.mu.Unlock()
		go w.work(j)
		return
	}
	ch := w.idle[n-1]
	w.idle = w.idle[:n-1]
	w.mu.Unlock()
	ch <- j
}

// work does jobs until there are enough idle goroutines without it.
func (w *workers) work(j job) {
	defer w.live.Done()
	ch := make(chan job, 1)
	for ok := true; ok; j, ok = <-ch {
		j.c.do(j.st)
		w.mu.Lock()
		if w.closed || len(w.idle) >= maxIdleWorkers {
			w.mu.Unlock()
			return
		}
		w.idle = append(w.idle, ch)
		w.mu.Unlock()
	}
}

// close ends the idle goroutines and waits for them and the busy ones.
func (w *workers) close() {
	w.mu.Lock()
	w.closed = true
	for _, ch := range w.idle {
		close(ch)
	}
	w.idle = nil
	w.mu.Unlock()
	w.live.Wait()
}
