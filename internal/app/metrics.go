package app

import (
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"postern/internal/doctor"
	"postern/internal/upstream"
)

// newRegistry makes the registry with what every process tells of itself.
func newRegistry(version string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "postern_build_info", Help: "Always 1; the labels tell the version.",
		ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version()},
	})
	info.Set(1)
	r.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// appMetrics are the series of the process as a whole.
type appMetrics struct {
	upstream *upstream.Metrics
	reloads  *prometheus.CounterVec
	reloaded prometheus.Gauge
	checks   *prometheus.GaugeVec
}

func newAppMetrics(reg prometheus.Registerer) *appMetrics {
	m := &appMetrics{
		upstream: upstream.NewMetrics(reg),
		reloads:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_config_reloads_total", Help: "Reloads by result."}, []string{"result"}),
		reloaded: prometheus.NewGauge(prometheus.GaugeOpts{Name: "postern_config_last_reload_success_timestamp_seconds", Help: "When the running configuration was read."}),
	}
	m.reloads.WithLabelValues("ok")
	m.reloads.WithLabelValues("refused")
	m.reloaded.Set(float64(time.Now().Unix()))
	m.checks = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "postern_doctor_checks", Help: "Checks of the last examination by status."}, []string{"status"})
	for _, s := range []doctor.Status{doctor.Pass, doctor.Warn, doctor.Fail, doctor.Skip} {
		m.checks.WithLabelValues(strings.ToLower(string(s)))
	}
	reg.MustRegister(m.reloads, m.reloaded, m.checks)
	return m
}

// examined counts a report.
func (m *appMetrics) examined(r doctor.Report) {
	n := map[doctor.Status]int{doctor.Pass: 0, doctor.Warn: 0, doctor.Fail: 0, doctor.Skip: 0}
	for _, f := range r.Checks {
		n[f.Status]++
	}
	for s, k := range n {
		m.checks.WithLabelValues(strings.ToLower(string(s))).Set(float64(k))
	}
}

func (m *appMetrics) reload(err error) {
	if err != nil {
		m.reloads.WithLabelValues("refused").Inc()
		return
	}
	m.reloads.WithLabelValues("ok").Inc()
	m.reloaded.Set(float64(time.Now().Unix()))
}
