package notify

import "github.com/prometheus/client_golang/prometheus"

// metrics counts what becomes of messages. The label channel is a name of the
// configuration.
type metrics struct {
	messages *prometheus.CounterVec
	up       *prometheus.GaugeVec
	dropped  prometheus.Counter
}

// results are the values of the label result.
func results() []string { return []string{"delivered", "retried", "limited", "refused", "disabled"} }

func newMetrics(o *Outbox, reg prometheus.Registerer) *metrics {
	m := &metrics{
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_notify_messages_total",
			Help: "Attempts to deliver a message, changes of one included, by outcome: delivered, retried (kept for later), limited (the service asked to wait), refused (not acceptable, dropped), disabled (the channel does not exist any more).",
		}, []string{"channel", "result"}),
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "postern_notify_channel_up",
			Help: "0 for a channel that is disabled because the service says that it does not exist or is not ours, else 1.",
		}, []string{"channel"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_notify_dropped_total",
			Help: "Messages that had no room in the queue.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.messages, m.up, m.dropped, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_notify_queue",
			Help: "Messages that wait to be handed to the channels.",
		}, o.queued))
	}
	return m
}

// queued is how many messages are in the inbox.
func (o *Outbox) queued() float64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return float64(len(o.inbox))
}

func (m *metrics) channel(name string) {
	for _, r := range results() {
		m.messages.WithLabelValues(name, r)
	}
	m.setUp(name, true)
}

func (m *metrics) setUp(name string, up bool) {
	v := 0.0
	if up {
		v = 1
	}
	m.up.WithLabelValues(name).Set(v)
}

func (m *metrics) delivered(name string)      { m.messages.WithLabelValues(name, "delivered").Inc() }
func (m *metrics) failed(name, result string) { m.messages.WithLabelValues(name, result).Inc() }

// forget removes a channel that is not there any more.
func (m *metrics) forget(name string) {
	m.messages.DeletePartialMatch(prometheus.Labels{"channel": name})
	m.up.DeleteLabelValues(name)
}
