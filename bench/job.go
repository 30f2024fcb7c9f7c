package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// A job is one measurement, as the driver gives it to a load process.
//
// The two talk in lines of JSON: the job goes in; the load connects and warms
// up, and says it is ready; "go" goes in; the units are done, or, when Units
// is 0, done until "stop" goes in; the result comes out.
type job struct {
	Kind string // a key of workers

	Addr   string   // of the proxy
	TLS    bool     // speak TLS 1.3
	CA     string   // PEM file with the proxy's certificate
	Source string   // the client's address
	Hosts  []string // server names and Host fields; connections take turns
	Method string
	Paths  []string // connections take turns
	Body   int      // bytes of each request's body

	Conns   int // connections open at once
	Streams int // HTTP/2: streams at once in each
	Warm    int // units before the measurement, over all connections
	Units   int // units to measure; 0: until told to stop
	Resume  bool
}

// outcome is what a load process found.
type outcome struct {
	Ready bool `json:",omitempty"` // the first line

	Units   int     // done as they should be
	Failed  int     // answered wrongly or not at all
	Retried int     // sent again on a new connection, because the old one closed under it
	Bytes   int64   // of bodies received
	Seconds float64 // from "go" to the last unit
	P50     float64 // of the time a unit takes, microseconds
	P99     float64
	Resumed int    // handshakes that resumed a session
	Error   string // why the whole measurement failed; or the first failure
}

// A worker does the units of one connection. It belongs to one goroutine.
type worker interface {
	// prepare connects, if units do not connect by themselves.
	prepare() error
	// unit does one unit of work and returns how long its parts took:
	// several of them for workers that have several streams.
	unit(t *tally)
	close()
}

// tally is what one worker counts. It belongs to the worker's goroutine.
type tally struct {
	times                            []time.Duration
	failed, retried, resumed, remain int
	bytes                            int64
	err                              error
}

func (t *tally) done(d time.Duration) { t.times = append(t.times, d) }

func (t *tally) fail(err error) {
	t.failed++
	if t.err == nil {
		t.err = err
	}
}

// workers makes the workers by the kind of job.
var workers = map[string]func(j *job, n int, c *clients) worker{ // read only
	"h1":        newH1Worker,
	"h1connect": newConnectWorker,
	"refused":   newRefusedWorker,
	"h2":        newH2Worker,
	"websocket": newWebSocketWorker,
}

// runLoad is the load process.
func runLoad(stdin io.Reader, stdout io.Writer) error {
	in := bufio.NewScanner(stdin)
	in.Buffer(nil, megabyte)
	if !in.Scan() {
		return in.Err()
	}
	var j job
	if err := json.Unmarshal(in.Bytes(), &j); err != nil {
		return fmt.Errorf("job: %w", err)
	}
	enc := json.NewEncoder(stdout)
	out, err := runJob(&j, func() bool { _ = enc.Encode(outcome{Ready: true}); return in.Scan() },
		func() { in.Scan() })
	if err != nil {
		out.Error = err.Error()
	}
	return enc.Encode(out)
}

// runJob does j. start says that the warm-up is over and waits for the go;
// stop, used when j.Units is 0, waits for the end.
func runJob(j *job, start func() bool, stop func()) (*outcome, error) {
	c, err := newClients(j)
	if err != nil {
		return &outcome{}, err
	}
	if workers[j.Kind] == nil {
		return &outcome{}, fmt.Errorf("job of kind %q, which does not exist", j.Kind)
	}
	all := make([]worker, j.Conns)
	for i := range all {
		all[i] = workers[j.Kind](j, i, c)
		defer all[i].close()
	}
	if err := warmUp(j, all); err != nil {
		return &outcome{}, err
	}
	if !start() {
		return &outcome{}, io.ErrUnexpectedEOF
	}
	stopped := make(chan struct{})
	var waiting sync.WaitGroup
	if j.Units == 0 {
		waiting.Go(func() { stop(); close(stopped) })
	}
	begin := time.Now()
	tallies := make([]tally, len(all))
	var working sync.WaitGroup
	for i, w := range all {
		t := &tallies[i]
		t.remain = share(j.Units, len(all), i)
		t.times = make([]time.Duration, 0, t.remain)
		working.Go(func() {
			for (j.Units > 0 && len(t.times)+t.failed < t.remain) || (j.Units == 0 && !isClosed(stopped)) {
				w.unit(t)
			}
		})
	}
	working.Wait()
	out := sum(tallies, time.Since(begin))
	waiting.Wait()
	return out, nil
}

// share divides n units among of workers.
func share(n, of, i int) int {
	s := n / of
	if i < n%of {
		s++
	}
	return s
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// warmUp prepares the workers, 32 at a time, and lets each do its share of
// the warm-up.
func warmUp(j *job, all []worker) error {
	errs := make([]error, len(all))
	limit := make(chan struct{}, 32)
	var wg sync.WaitGroup
	for i, w := range all {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			if errs[i] = w.prepare(); errs[i] != nil {
				return
			}
			t := tally{remain: share(j.Warm, len(all), i)}
			for len(t.times)+t.failed < t.remain {
				w.unit(&t)
			}
			if t.err != nil {
				errs[i] = fmt.Errorf("warm-up: %w", t.err)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func sum(tallies []tally, took time.Duration) *outcome {
	out := &outcome{Seconds: took.Seconds()}
	var times []time.Duration
	for _, t := range tallies {
		times = append(times, t.times...)
		out.Failed += t.failed
		out.Retried += t.retried
		out.Resumed += t.resumed
		out.Bytes += t.bytes
		if t.err != nil && out.Error == "" {
			out.Error = t.err.Error()
		}
	}
	out.Units = len(times)
	slices.Sort(times)
	out.P50 = microseconds(quantile(times, 0.5))
	out.P99 = microseconds(quantile(times, 0.99))
	return out
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
