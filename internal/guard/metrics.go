package guard

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A Verdict is the decision about a connection or a request.
type Verdict struct {
	// Allowed tells whether to let it in.
	Allowed bool
	// Would tells that it is let in only because the guard just detects.
	Would bool
	// Reason is what speaks against it; None when nothing does.
	Reason Reason
}

// A Reason is why something is refused. The set is closed; String is the
// metric label.
type Reason uint8

const (
	// None speaks against nothing.
	None Reason = iota
	// Banned is an address that is banned.
	Banned
	// AddressConnections is an address with as many connections open as it
	// may have.
	AddressConnections
	// TotalConnections is as many connections open as there may be.
	TotalConnections

	numReasons = int(TotalConnections) + 1
)

// String returns the reason's metric label.
func (r Reason) String() string {
	switch r {
	case None:
		return "none"
	case Banned:
		return "banned"
	case AddressConnections:
		return "address_connections"
	case TotalConnections:
		return "total_connections"
	}
	return "unknown"
}

// A layer is where a verdict was given.
type layer uint8

const (
	layerConnection layer = iota
	layerRequest
	numLayers = int(layerRequest) + 1
)

var layerNames = [numLayers]string{"connection", "request"}

// The effects of a verdict, as they are counted.
const (
	effectAllowed = iota
	effectWouldRefuse
	effectRefused
	numEffects
)

var effectNames = [numEffects]string{"allowed", "would_refuse", "refused"}

// metrics holds the counters, each found by index: the hot path must not look
// up labels.
type metrics struct {
	verdicts         [numLayers][numReasons][numEffects]prometheus.Counter
	signals          [numSignals]prometheus.Counter
	bans             [numSignals + 1]prometheus.Counter // the last is manual
	scoreEvictions   prometheus.Counter
	banEvictions     prometheus.Counter
	limiterEvictions prometheus.Counter
}

func newMetrics(g *Guard, reg prometheus.Registerer) *metrics {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		if reg != nil {
			reg.MustRegister(v)
		}
		return v
	}
	verdicts := vec("postern_guard_verdicts_total",
		"Decisions about connections and requests, by what spoke against them and whether they were let in.",
		"layer", "reason", "effect")
	signals := vec("postern_guard_signals_total",
		"Things addresses did that callers do not do.", "signal")
	bans := vec("postern_guard_bans_total",
		"Bans that began, by the signal that weighed most.", "reason")
	evictions := vec("postern_guard_table_evictions_total",
		"Entries that still mattered and had to go because a table was full.", "table")

	m := &metrics{
		scoreEvictions:   evictions.WithLabelValues("scores"),
		banEvictions:     evictions.WithLabelValues("bans"),
		limiterEvictions: evictions.WithLabelValues("limiter"),
	}
	for l := range numLayers {
		m.verdictsOf(verdicts, layer(l))
	}
	for s := range Signal(numSignals) {
		m.signals[s] = signals.WithLabelValues(s.String())
		m.bans[s] = bans.WithLabelValues(s.String())
	}
	m.bans[numSignals] = bans.WithLabelValues(reasonName(reasonManual))

	if reg != nil {
		reg.MustRegister(
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "postern_guard_bans",
				Help: "Addresses that are banned at present.",
			}, func() float64 { return float64(g.bans.active(g.at(time.Now()))) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "postern_guard_connections",
				Help: "Connections that are open at present.",
			}, func() float64 { return float64(g.conns.count()) }),
		)
	}
	return m
}

// verdictsOf makes the counters of one layer, those that can ever count.
func (m *metrics) verdictsOf(vec *prometheus.CounterVec, l layer) {
	for r := range Reason(numReasons) {
		if l == layerRequest && r > Banned {
			continue
		}
		for e := range numEffects {
			if (r == None) == (e == effectAllowed) {
				m.verdicts[l][r][e] = vec.WithLabelValues(layerNames[l], r.String(), effectNames[e])
			}
		}
	}
}

// verdict counts v and returns it.
func (m *metrics) verdict(l layer, v Verdict) Verdict {
	effect := effectRefused
	switch {
	case v.Would:
		effect = effectWouldRefuse
	case v.Allowed:
		effect = effectAllowed
	}
	m.verdicts[l][v.Reason][effect].Inc()
	return v
}

// ban counts a ban.
func (m *metrics) ban(reason uint8) {
	m.bans[min(int(reason), numSignals)].Inc()
}
