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
	// AddressRate is an address that opens connections too fast.
	AddressRate
	// AddressRequests is an address with as many requests under way as it may
	// have.
	AddressRequests
	// Listed is an address that a list of others has, see Guard.SetListed.
	Listed

	numReasons = int(Listed) + 1
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
	case AddressRate:
		return "address_rate"
	case AddressRequests:
		return "address_requests"
	case Listed:
		return "listed"
	}
	return "unknown"
}

// stage is the layer that gives the reason: requests under way are a rate, a
// ban counts at the door whenever it is seen.
func (r Reason) stage() stage {
	if r == AddressRequests {
		return stageRate
	}
	return stageAccept
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
	bans             [numSignals + 2]prometheus.Counter // the last two are network and manual
	stops            [numStages][numEffects]prometheus.Counter
	families         [maxFamilies]prometheus.Counter
	limits           [numLimits]prometheus.Counter
	served           prometheus.Counter
	listed           *prometheus.CounterVec // by the lists' names, which the configuration gives
	bansNotKept      prometheus.Counter
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

	stops := vec("postern_guard_stops_total",
		"Connections and requests by the layer that stopped them (would_refuse: would have, if the guard enforced). At the layer status: answers that counted against an address.",
		"layer", "effect")
	families := vec("postern_guard_scanner_requests_total", "Requests for known scanner paths, by family.", "family")
	limits := vec("postern_guard_limit_hits_total", "Connections and requests over a limit.", "limit")

	m := &metrics{
		listed: vec("postern_guard_listed_total",
			"Connections and requests of addresses that a list has, by list.", "list"),
		bansNotKept:      evictions.WithLabelValues("bans_not_kept"),
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
	m.bans[numSignals] = bans.WithLabelValues(reasonName(reasonNetwork))
	m.bans[numSignals+1] = bans.WithLabelValues(reasonName(reasonManual))
	for st := range stage(numStages) {
		m.stops[st][effectRefused] = stops.WithLabelValues(stageNames[st], effectNames[effectRefused])
		m.stops[st][effectWouldRefuse] = stops.WithLabelValues(stageNames[st], effectNames[effectWouldRefuse])
	}
	m.knownFamilies(families)
	for l := range Limit(numLimits) {
		m.limits[l] = limits.WithLabelValues(l.String())
	}
	m.served = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "postern_guard_private_files_served_total",
		Help: "Requests for files that only scanners ask for and that a backend answered 2xx.",
	})

	if reg != nil {
		reg.MustRegister(
			m.served,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "postern_guard_bans",
				Help: "Addresses and networks that are banned at present.",
			}, func() float64 { return float64(g.bans.active(g.at(time.Now()))) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "postern_guard_connections",
				Help: "Connections that are open at present.",
			}, func() float64 { return float64(g.conns.count()) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "postern_guard_bans_off",
				Help: "1 while bans are switched off because all clients share one address.",
			}, func() float64 {
				if g.crowd.masked.Load() {
					return 1
				}
				return 0
			}),
		)
	}
	return m
}

// verdictsOf makes the counters of one layer, those that can ever count.
func (m *metrics) verdictsOf(vec *prometheus.CounterVec, l layer) {
	for r := range Reason(numReasons) {
		if l == layerRequest && r != None && r != Banned && r != Listed && r != AddressRequests || l == layerConnection && r == AddressRequests {
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
	if effect != effectAllowed {
		m.stops[v.Reason.stage()][effect].Inc()
	}
	return v
}

// ban counts a ban.
func (m *metrics) ban(reason uint8) {
	switch reason {
	case reasonNetwork:
		m.bans[numSignals].Inc()
	case reasonManual:
		m.bans[numSignals+1].Inc()
	default:
		m.bans[reason].Inc()
	}
}

// A stage is one of the layers a connection and its requests pass, the
// cheapest first.
type stage uint8

const (
	stageAccept stage = iota
	stageFirstBytes
	stageServerName
	stageHost
	stageShape
	stageRoute
	stageSignature
	stageStatus
	stageRate
	numStages = int(stageRate) + 1
)

var stageNames = [numStages]string{"accept", "first_bytes", "server_name", "host", "shape", "route", "signature", "status", "rate"}

// stageOf is the layer that finds a signal.
func stageOf(s Signal) stage {
	switch s {
	case Junk, TLSOnHTTP, HTTPOnTLS:
		return stageFirstBytes
	case NoServerName, UnknownServerName, HandshakeFailed:
		return stageServerName
	case UnknownHost:
		return stageHost
	case BadShape, Malformed, AmbiguousPath:
		return stageShape
	case NoRoute:
		return stageRoute
	case Scanner, Decoy:
		return stageSignature
	case RateLimited:
		return stageRate
	}
	return stageStatus
}

// signal counts one, at its layer and by its family.
func (m *metrics) signal(s Signal, family int, mode Mode) {
	m.signals[s].Inc()
	effect := effectRefused
	if mode != Enforce {
		effect = effectWouldRefuse
	}
	m.stops[stageOf(s)][effect].Inc()
	if family >= 0 {
		m.families[family].Inc()
	}
}

// knownFamilies makes the counters of the families.
func (m *metrics) knownFamilies(vec *prometheus.CounterVec) {
	for i := range families {
		m.families[i] = vec.WithLabelValues(string(families[i].name))
	}
}
