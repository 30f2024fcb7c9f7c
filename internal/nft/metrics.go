package nft

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	changes  map[string]prometheus.Counter // add, remove; read only
	rebuilds prometheus.Counter
	errors   prometheus.Counter
	dropped  prometheus.Counter
}

func newMetrics(d *Drop, reg prometheus.Registerer) *metrics {
	changes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postern_nft_changes_total",
		Help: "Networks given to the kernel to be dropped, or taken back.",
	}, []string{"change"})
	m := &metrics{
		changes: map[string]prometheus.Counter{"add": changes.WithLabelValues("add"), "remove": changes.WithLabelValues("remove")},
		rebuilds: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_nft_rebuilds_total",
			Help: "Times the kernel's table was made anew.",
		}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_nft_errors_total",
			Help: "Times the kernel refused what we wanted of it.",
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_nft_dropped_packets_total",
			Help: "Packets of banned addresses that the kernel dropped, as of the last look.",
		}),
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(changes, m.rebuilds, m.errors, m.dropped,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_nft_banned",
			Help: "Networks the kernel drops at present.",
		}, func() float64 { return float64(d.Status().Banned) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_nft_active",
			Help: "1 while the kernel's table is in place.",
		}, func() float64 {
			if d.Status().Active {
				return 1
			}
			return 0
		}))
	return m
}
