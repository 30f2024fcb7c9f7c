package idempotency

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	requests *prometheus.CounterVec
	evicts   prometheus.Counter
	answers  prometheus.Gauge
	held     prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_idempotency_requests_total", Help: "Requests with an Idempotency-Key by what became of them: first, again, waited, other, busy, gave_up."}, []string{"result"}),
		evicts:   prometheus.NewCounter(prometheus.CounterOpts{Name: "postern_idempotency_evicted_total", Help: "Answers forgotten before their time, for want of room."}),
		answers:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "postern_idempotency_answers", Help: "Answers held."}),
		held:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "postern_idempotency_bytes", Help: "Size of the answers held."}),
	}
	for _, r := range []string{"first", "again", "waited", "other", "busy", "gave_up"} {
		m.requests.WithLabelValues(r)
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.evicts, m.answers, m.held)
	}
	return m
}

func (m *metrics) count(result string) { m.requests.WithLabelValues(result).Inc() }
func (m *metrics) evicted()            { m.evicts.Inc() }

func (m *metrics) hold(n int, bytes int64) {
	m.answers.Set(float64(n))
	m.held.Set(float64(bytes))
}
