package caller

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the series of one Registry. The label caller has the names of
// the configuration and no other.
type metrics struct {
	requests *prometheus.CounterVec
	failures [numFailures]prometheus.Counter
	fetches  [2]prometheus.Counter // of issuers' keys: those that worked, those that did not
	evicted  prometheus.Counter

	seenEvicted prometheus.Counter
	stsCalls    [3]prometheus.Counter // those that told a principal, those refused, those that came to nothing
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postern_caller_requests_total", Help: "Requests of known callers by how they proved themselves and the class of the answer.",
	}, []string{"caller", "method", "code"})}
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postern_caller_failures_total", Help: "Requests whose credentials did not make a caller known, by reason.",
	}, []string{"reason"})
	for f := range Failure(numFailures) {
		m.failures[f] = failures.WithLabelValues(f.String())
	}
	fetches := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postern_caller_key_fetches_total", Help: "Fetches of the keys of token issuers by result.",
	}, []string{"result"})
	m.fetches = [2]prometheus.Counter{fetches.WithLabelValues("ok"), fetches.WithLabelValues("failed")}
	m.evicted = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "postern_caller_token_evictions_total", Help: "Judged tokens that were forgotten before their time because there were too many.",
	})
	m.seenEvicted = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "postern_caller_signature_evictions_total", Help: "Used signatures that were forgotten early because there were too many; none as old as they is taken since.",
	})
	calls := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postern_caller_sts_calls_total", Help: "Presigned requests that were sent to AWS STS by result.",
	}, []string{"result"})
	m.stsCalls = [3]prometheus.Counter{calls.WithLabelValues("ok"), calls.WithLabelValues("refused"), calls.WithLabelValues("failed")}
	if reg != nil {
		reg.MustRegister(m.requests, failures, fetches, m.evicted, m.seenEvicted, calls)
	}
	return m
}

// The classes of answers; none is an exchange without one.
var statusClasses = [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"} // read only

// counters are the series of one caller, each made at its first use.
type counters struct {
	m    *metrics
	name string
	cell [numMethods][len(statusClasses)]atomic.Pointer[prometheus.Counter]
}

func (m *metrics) forCaller(name string) *counters { return &counters{m: m, name: name} }

func (c *counters) answered(method Method, status int) {
	class := 0
	if status >= 100 && status <= 599 {
		class = status / 100
	}
	cell := &c.cell[method][class]
	n := cell.Load()
	if n == nil {
		made := c.m.requests.WithLabelValues(c.name, method.String(), statusClasses[class])
		cell.Store(&made)
		n = &made
	}
	(*n).Inc()
}

// Answered counts a request of id that was answered with status; 0 stands for
// none.
func (id *Identity) Answered(status int) { id.entry.count.answered(id.Method, status) }

// Failed counts a request that was refused, or served as a stranger's, for f.
func (b *Book) Failed(f Failure) {
	if int(f) < numFailures {
		b.registry.metrics.failures[f].Inc()
	}
}

func (m *metrics) fetched(err error) {
	if err != nil {
		m.fetches[1].Inc()
		return
	}
	m.fetches[0].Inc()
}

func (m *metrics) asked(f Failure) {
	switch f {
	case NoCredentials:
		m.stsCalls[0].Inc()
	case BadSignature:
		m.stsCalls[1].Inc()
	default:
		m.stsCalls[2].Inc()
	}
}
