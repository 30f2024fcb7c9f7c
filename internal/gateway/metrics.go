package gateway

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the series of one Client.
type metrics struct {
	questions *prometheus.CounterVec
	ignored   *prometheus.CounterVec
	restarts  prometheus.Counter
	answered  prometheus.Gauge
	kind      *prometheus.GaugeVec
	ports     *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		questions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_gateway_address_questions_total", Help: "Questions to the router for its address, by protocol and result."}, []string{"protocol", "result"}),
		ignored:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_gateway_ignored_messages_total", Help: "Messages that were ignored: not from the router, not ours, or not well-formed."}, []string{"kind"}),
		restarts:  prometheus.NewCounter(prometheus.CounterOpts{Name: "postern_gateway_router_restarts_total", Help: "Restarts of the router that its clock told."}),
		answered:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "postern_gateway_last_answer_timestamp_seconds", Help: "When the router last told its address."}),
		kind:      prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "postern_gateway_address_kind", Help: "1 for what the router's address is: public, carrier_nat, double_nat or unusable."}, []string{"kind"}),
		ports:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "postern_gateway_mappings", Help: "Port mappings by family and state."}, []string{"family", "state"}),
	}
	for _, p := range []Protocol{PCP, NATPMP, UPnP} {
		m.questions.WithLabelValues(string(p), "ok")
		m.questions.WithLabelValues(string(p), "failed")
	}
	for _, k := range []string{"answer", "search", "announcement"} {
		m.ignored.WithLabelValues(k)
	}
	m.mappings(nil)
	if reg != nil {
		reg.MustRegister(m.questions, m.ignored, m.restarts, m.answered, m.kind, m.ports)
	}
	return m
}

func (m *metrics) question(p Protocol, err error) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.questions.WithLabelValues(string(p), result).Inc()
}

func (m *metrics) answer(a Answer, err error) {
	if err == nil {
		m.answered.Set(float64(a.At.Unix()))
	}
	for _, k := range []Kind{Public, CarrierNAT, DoubleNAT, Unusable} {
		v := 0.0
		if err == nil && a.Kind == k || errors.Is(err, ErrNoWAN) && k == Unusable {
			v = 1
		}
		m.kind.WithLabelValues(string(k)).Set(v)
	}
}

func (m *metrics) mappings(list []Mapping) {
	n := map[[2]string]float64{}
	for _, mp := range list {
		family := "ipv4"
		if mp.IsPinhole() {
			family = "ipv6"
		}
		n[[2]string{family, string(mp.State)}]++
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		for _, s := range []State{Wanted, Mapped, Conflict, Refused, Failed} {
			m.ports.WithLabelValues(family, string(s)).Set(n[[2]string{family, string(s)}])
		}
	}
}
