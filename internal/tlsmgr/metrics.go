package tlsmgr

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics is a prometheus.Collector. What it says about certificates is read
// from Status at each scrape, so that a name removed by a reload has no series
// any more.
type metrics struct {
	m   *Manager
	reg prometheus.Registerer

	notAfter *prometheus.Desc
	errorAt  *prometheus.Desc
	onDemand *prometheus.Desc
	attempts *prometheus.CounterVec
	refused  *prometheus.CounterVec
	asks     *prometheus.CounterVec
}

func newMetrics(m *Manager) *metrics {
	x := &metrics{
		m: m,
		notAfter: prometheus.NewDesc("postern_tls_certificate_not_after_timestamp_seconds",
			"When the certificate served for a configured name ends, as a Unix time. No series while there is none.", []string{"name"}, nil),
		errorAt: prometheus.NewDesc("postern_tls_certificate_last_error_timestamp_seconds",
			"When the last attempt for a configured name failed, as a Unix time. 0 when the last attempt worked or there was none.", []string{"name"}, nil),
		onDemand: prometheus.NewDesc("postern_tls_on_demand_certificates",
			"Certificates in memory for names no site lists.", nil, nil),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_tls_certificate_attempts_total",
			Help: "Attempts to get a certificate, by operation (obtain, renew) and result (ok, error).",
		}, []string{"operation", "result"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_tls_on_demand_refused_total",
			Help: "Allowed on-demand names not tried for, by reason (backoff, budget, busy, full).",
		}, []string{"reason"}),
		asks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_tls_on_demand_asks_total",
			Help: "Answers of the on-demand service, by result (allowed, refused, error).",
		}, []string{"result"}),
	}
	for _, op := range []string{"obtain", "renew"} {
		for _, res := range []string{"ok", "error"} {
			x.attempts.WithLabelValues(op, res)
		}
	}
	for _, r := range []string{"backoff", "budget", "busy", "full"} {
		x.refused.WithLabelValues(r)
	}
	for _, r := range []string{"allowed", "refused", "error"} {
		x.asks.WithLabelValues(r)
	}
	return x
}

func (x *metrics) register(r prometheus.Registerer) error {
	if err := r.Register(x); err != nil {
		return fmt.Errorf("tlsmgr metrics: %w", err)
	}
	x.reg = r
	return nil
}

func (x *metrics) unregister() {
	if x.reg != nil {
		x.reg.Unregister(x)
	}
}

func (x *metrics) attempt(operation string, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	x.attempts.WithLabelValues(operation, result).Inc()
}

func (x *metrics) onDemandRefused(reason string) { x.refused.WithLabelValues(reason).Inc() }
func (x *metrics) asked(result string)           { x.asks.WithLabelValues(result).Inc() }

// Describe implements prometheus.Collector.
func (x *metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- x.notAfter
	ch <- x.errorAt
	ch <- x.onDemand
	x.attempts.Describe(ch)
	x.refused.Describe(ch)
	x.asks.Describe(ch)
}

// Collect implements prometheus.Collector.
func (x *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, s := range x.m.Status() {
		if !s.NotAfter.IsZero() {
			ch <- prometheus.MustNewConstMetric(x.notAfter, prometheus.GaugeValue, float64(s.NotAfter.Unix()), s.Name)
		}
		at := 0.0
		if s.LastError != "" {
			at = float64(s.LastErrorAt.Unix())
		}
		ch <- prometheus.MustNewConstMetric(x.errorAt, prometheus.GaugeValue, at, s.Name)
	}
	ch <- prometheus.MustNewConstMetric(x.onDemand, prometheus.GaugeValue, float64(x.m.OnDemandCount()))
	x.attempts.Collect(ch)
	x.refused.Collect(ch)
	x.asks.Collect(ch)
}
