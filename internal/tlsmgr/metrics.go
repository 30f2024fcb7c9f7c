package tlsmgr

import (
	"fmt"
	"time"

	"postern/internal/dnscheck"

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
	health   *prometheus.Desc
	next     *prometheus.Desc
	left     *prometheus.Desc
	up       *prometheus.Desc
	retry    *prometheus.Desc
	checks   *prometheus.CounterVec
	notices  *prometheus.CounterVec
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
		health: prometheus.NewDesc("postern_tls_dns_health",
			"What the last check of the name's DNS found: 1 green, 0.5 amber, 0 red. No series while it does not matter.", []string{"name"}, nil),
		next: prometheus.NewDesc("postern_tls_certificate_next_attempt_timestamp_seconds",
			"When an attempt that is held up may be made, as a Unix time. 0 when none is.", []string{"name"}, nil),
		left: prometheus.NewDesc("postern_tls_certificate_attempts_left",
			"Attempts this hour's budget has left. No series where they are not limited.", []string{"name"}, nil),
		up: prometheus.NewDesc("postern_tls_authority_up",
			"Whether a certificate authority answered when it was last asked.", []string{"authority"}, nil),
		retry: prometheus.NewDesc("postern_tls_authority_retry_timestamp_seconds",
			"When a certificate authority that failed or limits us is asked again, as a Unix time. 0 when it is well.", []string{"authority"}, nil),
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_tls_dns_checks_total",
			Help: "Checks of a name's DNS, by colour (green, amber, red).",
		}, []string{"colour"}),
		notices: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_tls_notices_total",
			Help: "Outages people were told of, by kind and event (began, ended).",
		}, []string{"kind", "event"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_tls_certificate_attempts_total",
			Help: "Attempts to get a certificate, by operation (obtain, renew) and result (ok, error).",
		}, []string{"operation", "result"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_tls_on_demand_refused_total",
			Help: "Allowed on-demand names not tried for, by reason (authority, backoff, budget, busy, dns, full, machine).",
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
	for _, r := range []string{"authority", "backoff", "budget", "busy", "dns", "full", "machine"} {
		x.refused.WithLabelValues(r)
	}
	for _, c := range []dnscheck.Colour{dnscheck.Green, dnscheck.Amber, dnscheck.Red} {
		x.checks.WithLabelValues(c.String())
	}
	for _, k := range noticeKinds() {
		x.notices.WithLabelValues(k, "began")
		x.notices.WithLabelValues(k, "ended")
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

func (x *metrics) checked(c dnscheck.Colour) { x.checks.WithLabelValues(c.String()).Inc() }

func (x *metrics) noticed(kind string, began bool) {
	event := "ended"
	if began {
		event = "began"
	}
	x.notices.WithLabelValues(kind, event).Inc()
}

func (x *metrics) onDemandRefused(reason string) { x.refused.WithLabelValues(reason).Inc() }
func (x *metrics) asked(result string)           { x.asks.WithLabelValues(result).Inc() }

// Describe implements prometheus.Collector.
func (x *metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- x.notAfter
	ch <- x.errorAt
	for _, d := range []*prometheus.Desc{x.onDemand, x.health, x.next, x.left, x.up, x.retry} {
		ch <- d
	}
	x.checks.Describe(ch)
	x.notices.Describe(ch)
	x.attempts.Describe(ch)
	x.refused.Describe(ch)
	x.asks.Describe(ch)
}

// collectName tells what the driver knows about one name.
func (x *metrics) collectName(ch chan<- prometheus.Metric, s CertStatus) {
	if v, ok := map[string]float64{"green": 1, "amber": 0.5, "red": 0}[s.Verdict]; ok {
		ch <- prometheus.MustNewConstMetric(x.health, prometheus.GaugeValue, v, s.Name)
	}
	if s.Source != "file" {
		ch <- prometheus.MustNewConstMetric(x.next, prometheus.GaugeValue, unixTime(s.NextAttempt), s.Name)
	}
	if s.AttemptsLeft >= 0 {
		ch <- prometheus.MustNewConstMetric(x.left, prometheus.GaugeValue, float64(s.AttemptsLeft), s.Name)
	}
}

// unixTime is t as Prometheus wants it; 0 for none.
func unixTime(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.Unix())
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
		x.collectName(ch, s)
	}
	for _, a := range x.m.Authorities() {
		up := 1.0
		if a.State == StateDown {
			up = 0
		}
		ch <- prometheus.MustNewConstMetric(x.up, prometheus.GaugeValue, up, a.Name)
		ch <- prometheus.MustNewConstMetric(x.retry, prometheus.GaugeValue, unixTime(a.NextTry), a.Name)
	}
	x.checks.Collect(ch)
	x.notices.Collect(ch)
	ch <- prometheus.MustNewConstMetric(x.onDemand, prometheus.GaugeValue, float64(x.m.OnDemandCount()))
	x.attempts.Collect(ch)
	x.refused.Collect(ch)
	x.asks.Collect(ch)
}
