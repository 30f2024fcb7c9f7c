package ddns

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"postern/internal/dnsapi"
)

// metrics are the series of a Manager. Labels are kinds, parts and what the
// configuration calls its DNS hosts.
type metrics struct {
	provider *prometheus.GaugeVec
	answers  *prometheus.CounterVec
	known    *prometheus.GaugeVec
	changes  *prometheus.CounterVec
	writes   *prometheus.CounterVec
	success  *prometheus.GaugeVec
	notices  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		provider: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "postern_dns_provider_up", Help: "Whether a part of a DNS host works: its api or its nameservers."}, []string{"provider", "part"}),
		answers:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_ddns_source_answers_total", Help: "Answers of the sources of the public address."}, []string{"kind", "result"}),
		known:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "postern_ddns_address_known", Help: "Whether there is a public address of a family."}, []string{"family"}),
		changes:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_ddns_address_changes_total", Help: "Changes of the public address."}, []string{"family"}),
		writes:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_ddns_writes_total", Help: "Changes of records at DNS hosts, by result."}, []string{"provider", "result"}),
		success:  prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "postern_ddns_last_success_timestamp_seconds", Help: "When a DNS host last took a change."}, []string{"provider"}),
		notices:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_ddns_notices_total", Help: "Troubles at DNS hosts that people were told of, and their ends."}, []string{"part", "state"}),
	}
	for _, k := range Kinds() {
		for _, r := range []string{"ok", "failed"} {
			m.answers.WithLabelValues(string(k), r)
		}
	}
	for _, f := range []string{"ipv4", "ipv6"} {
		m.known.WithLabelValues(f)
		m.changes.WithLabelValues(f)
	}
	if reg != nil {
		reg.MustRegister(m.provider, m.answers, m.known, m.changes, m.writes, m.success, m.notices)
	}
	return m
}

func (m *metrics) answered(k Kind, err error) {
	r := "ok"
	if err != nil {
		r = "failed"
	}
	m.answers.WithLabelValues(string(k), r).Inc()
}

func (m *metrics) addresses(a Addresses) {
	for family, addr := range map[string]bool{"ipv4": a.V4.IsValid(), "ipv6": a.V6.IsValid()} {
		v := 0.0
		if addr {
			v = 1
		}
		m.known.WithLabelValues(family).Set(v)
	}
}

func (m *metrics) changed(old, now Addresses) {
	if old.V4 != now.V4 {
		m.changes.WithLabelValues("ipv4").Inc()
	}
	if old.V6 != now.V6 {
		m.changes.WithLabelValues("ipv6").Inc()
	}
}

func (m *metrics) wrote(id string, err error, now time.Time) {
	result := "ok"
	switch _, kind := kindOf(err); {
	case err == nil:
		m.success.WithLabelValues(id).Set(float64(now.Unix()))
	case errors.Is(kind, dnsapi.ErrRejected):
		result = "rejected"
	case errors.Is(kind, dnsapi.ErrLimited):
		result = "limited"
	default:
		result = "unreachable"
	}
	m.writes.WithLabelValues(id, result).Inc()
}

// up sets the gauge of a part that has one.
func (m *metrics) up(id, part string, up bool) {
	if part != partAPI && part != partServers {
		return
	}
	v := 0.0
	if up {
		v = 1
	}
	m.provider.WithLabelValues(id, part).Set(v)
}

func (m *metrics) noticed(n Notice) {
	state := "begun"
	if !n.Ended.IsZero() {
		state = "ended"
	}
	m.notices.WithLabelValues(n.Part, state).Inc()
}

func (m *metrics) drop(id string) {
	m.provider.DeletePartialMatch(prometheus.Labels{"provider": id})
	m.writes.DeletePartialMatch(prometheus.Labels{"provider": id})
	m.success.DeletePartialMatch(prometheus.Labels{"provider": id})
}
