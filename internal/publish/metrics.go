package publish

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count by target, a name from the configuration.
type metrics struct {
	pushes *prometheus.CounterVec
	up     *prometheus.GaugeVec
	last   *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		pushes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_publish_pushes_total",
			Help: "Attempts to publish the endpoint, by result: ok, denied, rejected, limited, clock, unreachable.",
		}, []string{"target", "result"}),
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "postern_publish_up",
			Help: "1 if the last attempt to publish at the target worked, 0 if not. Absent before the first.",
		}, []string{"target"}),
		last: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "postern_publish_last_success_timestamp_seconds",
			Help: "When the endpoint was last published at the target.",
		}, []string{"target"}),
	}
	if reg != nil {
		reg.MustRegister(m.pushes, m.up, m.last)
	}
	return m
}

func (m *metrics) know(target string) { m.pushes.WithLabelValues(target, "ok") }

func (m *metrics) forget(target string) {
	l := prometheus.Labels{"target": target}
	m.pushes.DeletePartialMatch(l)
	m.up.Delete(l)
	m.last.Delete(l)
}

func (m *metrics) pushed(target string, err error, now time.Time) {
	m.pushes.WithLabelValues(target, result(err)).Inc()
	if err != nil {
		m.up.WithLabelValues(target).Set(0)
		return
	}
	m.up.WithLabelValues(target).Set(1)
	m.last.WithLabelValues(target).Set(float64(now.Unix()))
}

func result(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrDenied):
		return "denied"
	case errors.Is(err, ErrRejected):
		return "rejected"
	case errors.Is(err, ErrLimited):
		return "limited"
	case errors.Is(err, ErrClock):
		return "clock"
	}
	return "unreachable"
}
