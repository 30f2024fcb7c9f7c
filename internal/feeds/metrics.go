package feeds

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics have one label, the feed's name of the configuration.
type metrics struct {
	polls   *prometheus.CounterVec
	entries *prometheus.Desc
	age     *prometheus.Desc
	lists   *Lists
}

// results of a poll
const (
	resultNews   = "news"
	resultNoNews = "no_news"
	resultFailed = "failed"
)

func newMetrics(l *Lists, reg prometheus.Registerer) *metrics {
	m := &metrics{
		lists: l,
		polls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_feeds_polls_total",
			Help: "Times a feed was asked, by what came of it.",
		}, []string{"feed", "result"}),
		entries: prometheus.NewDesc("postern_feeds_entries", "Networks a feed lists at present.", []string{"feed"}, nil),
		age:     prometheus.NewDesc("postern_feeds_last_success_timestamp_seconds", "When a feed last answered.", []string{"feed"}, nil),
	}
	if reg != nil {
		reg.MustRegister(m, m.polls)
	}
	return m
}

// keep makes the series of the feeds there are, and drops those of the ones
// there were.
func (m *metrics) keep(before, now []*feed) {
	for _, f := range before {
		if !slices.ContainsFunc(now, func(n *feed) bool { return n.Name == f.Name }) {
			m.polls.DeletePartialMatch(prometheus.Labels{"feed": f.Name})
		}
	}
	for _, f := range now {
		for _, result := range []string{resultNews, resultNoNews, resultFailed} {
			m.polls.WithLabelValues(f.Name, result)
		}
	}
}

func (m *metrics) polled(name string, news bool, err error) {
	result := resultNoNews
	switch {
	case err != nil:
		result = resultFailed
	case news:
		result = resultNews
	}
	m.polls.WithLabelValues(name, result).Inc()
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.entries
	ch <- m.age
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, s := range m.lists.Status() {
		ch <- prometheus.MustNewConstMetric(m.entries, prometheus.GaugeValue, float64(s.Entries), s.Name)
		if !s.Fetched.IsZero() {
			ch <- prometheus.MustNewConstMetric(m.age, prometheus.GaugeValue, float64(s.Fetched.Unix()), s.Name)
		}
	}
}
