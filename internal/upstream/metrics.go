package upstream

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what the pools of a process do. Make one per registry and
// give it to every Pool; a nil *Metrics counts nothing. Labels hold targets as
// configured and the classes of Class, nothing that comes from a stranger.
type Metrics struct {
	attempts *prometheus.CounterVec
	retries  *prometheus.CounterVec
	conns    *prometheus.CounterVec
	closed   *prometheus.CounterVec
	idle     *prometheus.GaugeVec
	up       *prometheus.GaugeVec
	checks   *prometheus.CounterVec
	held     prometheus.Gauge

	mu    sync.Mutex
	state map[string]*targetState // by target; guarded by mu
}

// targetState joins what several pools think of one target: it is shown as
// down while any of them holds it for down, and not at all when none has it.
type targetState struct{ pools, down int }

// NewMetrics registers the metrics of this package at reg. It panics if they
// already are.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_upstream_attempts_total",
			Help: "Attempts to get a response from a backend, by outcome.",
		}, []string{"target", "result"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_upstream_retries_total",
			Help: "Requests tried again, by reason: dial (next backend), stale (the pooled connection had died), refused (HTTP/2 said so), restart (a route with hold met a backend that went down), and by configuration closed, timeout, malformed, status; budget counts those that were not, for want of budget.",
		}, []string{"reason"}),
		conns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_upstream_connections_opened_total",
			Help: "Connections opened to a backend.",
		}, []string{"target"}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_upstream_idle_closed_total",
			Help: "Idle connections that were found closed, or with bytes nobody asked for, when a request wanted them.",
		}, []string{"target"}),
		idle: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "postern_upstream_idle_limit_seconds",
			Help: "How long idle connections to a backend are kept: the configured limit, or less if the backend's own is shorter.",
		}, []string{"target"}),
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "postern_upstream_backend_up",
			Help: "1 while a backend is used, 0 while it is left out after failed dials or checks, or because its circuit is open.",
		}, []string{"target"}),
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_upstream_checks_total",
			Help: "Active health checks of a backend, by result: passed or failed.",
		}, []string{"target", "result"}),
		held: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_upstream_held_requests",
			Help: "Requests that wait for a backend to come back.",
		}),
		state: make(map[string]*targetState),
	}
	reg.MustRegister(m.attempts, m.retries, m.conns, m.closed, m.idle, m.up, m.checks, m.held)
	for _, reason := range []string{retryDial, retryStale, retryRefused, retryClosed, retryTimeout, retryBad, retryStatus, retryRestart, retryBroke} {
		m.retries.WithLabelValues(reason)
	}
	return m
}

func (m *Metrics) attempt(target, result string) {
	if m != nil {
		m.attempts.WithLabelValues(target, result).Inc()
	}
}

// answered returns the counter of good attempts, nil without metrics: it saves
// a look-up for each request.
func (m *Metrics) answered(target string) prometheus.Counter {
	if m == nil {
		return nil
	}
	return m.attempts.WithLabelValues(target, classOK)
}

func (m *Metrics) check(target, result string) {
	if m != nil {
		m.checks.WithLabelValues(target, result).Inc()
	}
}

// hold counts requests that begin (1) or end (-1) to wait for a backend.
func (m *Metrics) hold(n float64) {
	if m != nil {
		m.held.Add(n)
	}
}

// foundClosed counts an idle connection that was of no use.
func (m *Metrics) foundClosed(target string) {
	if m != nil {
		m.closed.WithLabelValues(target).Inc()
	}
}

// idleLimit shows how long idle connections are kept.
func (m *Metrics) idleLimit(target string, d time.Duration) {
	if m != nil {
		m.idle.WithLabelValues(target).Set(d.Seconds())
	}
}

func (m *Metrics) retry(reason string) {
	if m != nil {
		m.retries.WithLabelValues(reason).Inc()
	}
}

func (m *Metrics) opened(target string) {
	if m != nil {
		m.conns.WithLabelValues(target).Inc()
	}
}

// change adjusts how many pools have the target, and how many hold it for
// down.
func (m *Metrics) change(target string, pools, down int) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.state[target]
	if s == nil {
		s = new(targetState)
		m.state[target] = s
	}
	s.pools += pools
	s.down += down
	switch {
	case s.pools <= 0:
		delete(m.state, target)
		m.up.DeleteLabelValues(target)
		m.idle.DeleteLabelValues(target)
	case s.down > 0:
		m.up.WithLabelValues(target).Set(0)
	default:
		m.up.WithLabelValues(target).Set(1)
	}
}
