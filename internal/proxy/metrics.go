package proxy

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the series of one Server. Labels come from closed sets and
// from the configuration, never from a client.
type metrics struct {
	requests     *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	upstreamTime *prometheus.HistogramVec
	inFlight     prometheus.Gauge
	reqBytes     *prometheus.CounterVec
	respBytes    *prometheus.CounterVec
	verdicts     *prometheus.CounterVec

	connections  *prometheus.CounterVec
	openConns    *prometheus.GaugeVec
	acceptErrors prometheus.Counter
	refused      *prometheus.CounterVec
	malformed    *prometheus.CounterVec
	received     prometheus.Counter
	sent         prometheus.Counter
	tunnels      prometheus.Gauge
	mirrored     *prometheus.CounterVec
	tarpitted    prometheus.Counter

	handshakes    *prometheus.CounterVec
	handshakeTime prometheus.Histogram
	resumed       prometheus.Counter
	h2Errors      *prometheus.CounterVec
	noise         *prometheus.CounterVec

	nowhere *routeMetrics // requests that matched no site
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{
			Name: name, Help: help,
			Buckets:                        []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
			NativeHistogramBucketFactor:    1.1,
			NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}
	}
	m := &metrics{
		requests:      counter("postern_requests_total", "Requests by outcome.", "site", "route", "code", "proto"),
		duration:      prometheus.NewHistogramVec(histogram("postern_request_duration_seconds", "Time from the head of a request to the end of its answer."), []string{"site", "route"}),
		upstreamTime:  prometheus.NewHistogramVec(histogram("postern_upstream_response_seconds", "Time from the request to the first byte of the backend's answer."), []string{"site", "route"}),
		inFlight:      prometheus.NewGauge(prometheus.GaugeOpts{Name: "postern_requests_in_flight", Help: "Requests being served."}),
		reqBytes:      counter("postern_request_body_bytes_total", "Declared request body bytes by site.", "site"),
		respBytes:     counter("postern_response_body_bytes_total", "Response body bytes by site.", "site"),
		verdicts:      counter("postern_request_verdicts_total", "Requests that were answered or refused here instead of by a backend.", "verdict"),
		connections:   counter("postern_connections_total", "Connections accepted.", "listener"),
		openConns:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "postern_connections_open", Help: "Open client connections."}, []string{"listener"}),
		acceptErrors:  prometheus.NewCounter(prometheus.CounterOpts{Name: "postern_accept_errors_total", Help: "Errors of accept, such as no file descriptors left."}),
		refused:       counter("postern_refused_connections_total", "Connections closed before HTTP.", "reason"),
		malformed:     counter("postern_malformed_requests_total", "Requests that RFC 9112 forbids.", "reason"),
		received:      prometheus.NewCounter(prometheus.CounterOpts{Name: "postern_received_bytes_total", Help: "Bytes received on closed client connections, TLS included."}),
		sent:          prometheus.NewCounter(prometheus.CounterOpts{Name: "postern_sent_bytes_total", Help: "Bytes sent on closed client connections, TLS included."}),
		tunnels:       prometheus.NewGauge(prometheus.GaugeOpts{Name: "postern_tunnels_open", Help: "Upgraded connections (WebSocket and the like)."}),
		mirrored:      counter("postern_mirrored_requests_total", "Copies of requests for a route's mirror: sent, failed, dropped because too many were under way, or skipped because the body was not at hand.", "result"),
		tarpitted:     prometheus.NewCounter(prometheus.CounterOpts{Name: "postern_tarpit_connections_total", Help: "Scanners that were kept busy instead of cut off."}),
		handshakes:    counter("postern_tls_handshakes_total", "TLS handshakes by result.", "result"),
		handshakeTime: prometheus.NewHistogram(histogram("postern_tls_handshake_duration_seconds", "Time of successful TLS handshakes.")),
		resumed:       prometheus.NewCounter(prometheus.CounterOpts{Name: "postern_tls_resumptions_total", Help: "Successful TLS handshakes that resumed a session."}),
		h2Errors:      counter("postern_http2_errors_total", "HTTP/2 protocol errors by kind.", "kind"),
		noise:         counter("postern_http_engine_messages_total", "Messages of the HTTP engine, counted instead of logged.", "kind"),
	}
	m.nowhere = m.forRoute(noSite, noRoute)
	if reg != nil {
		reg.MustRegister(m.requests, m.duration, m.upstreamTime, m.inFlight, m.reqBytes, m.respBytes, m.verdicts,
			m.connections, m.openConns, m.acceptErrors, m.refused, m.malformed, m.received, m.sent, m.tunnels, m.mirrored, m.tarpitted,
			m.handshakes, m.handshakeTime, m.resumed, m.h2Errors, m.noise)
	}
	return m
}

// routeMetrics are the series of one route, looked up once: finding a series by
// its labels costs more than counting.
type routeMetrics struct {
	m           *metrics
	site, route string
	requests    [len(statusClasses)][len(protos)]atomic.Pointer[prometheus.Counter] // made at the first use: most never are
	duration    prometheus.Observer
	upstream    prometheus.Observer
	reqBytes    prometheus.Counter
	respBytes   prometheus.Counter
}

func (m *metrics) forRoute(site, route string) *routeMetrics {
	return &routeMetrics{
		m: m, site: site, route: route,
		duration:  m.duration.WithLabelValues(site, route),
		upstream:  m.upstreamTime.WithLabelValues(site, route),
		reqBytes:  m.reqBytes.WithLabelValues(site),
		respBytes: m.respBytes.WithLabelValues(site),
	}
}

func (r *routeMetrics) request(status int, p proto) prometheus.Counter {
	class := statusIndex(status)
	cell := &r.requests[class][p]
	if c := cell.Load(); c != nil {
		return *c
	}
	c := r.m.requests.WithLabelValues(r.site, r.route, statusClasses[class], protos[p])
	cell.Store(&c)
	return c
}

func (m *metrics) refusedConn(reason string) { m.refused.WithLabelValues(reason).Inc() }

func (m *metrics) handshake(result string, d time.Duration) {
	m.handshakes.WithLabelValues(result).Inc()
	if result == handshakeOK {
		m.handshakeTime.Observe(d.Seconds())
	}
}

// statusClasses are the labels of statuses; none is an exchange without an
// answer.
var statusClasses = [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"} // read only

func statusIndex(status int) int {
	if status < 100 || status > 599 {
		return 0
	}
	return status / 100
}

// proto is the protocol of a request.
type proto uint8

const (
	protoHTTP10 proto = iota
	protoHTTP11
	protoHTTP2
	protoHTTP3
)

// protos are the labels of protocols.
var protos = [...]string{"http/1.0", "http/1.1", "h2", "h3"} // read only

func (p proto) String() string { return protos[p] }

func protoOf(major, minor int) proto {
	switch {
	case major == 2:
		return protoHTTP2
	case major == 3:
		return protoHTTP3
	case minor == 0:
		return protoHTTP10
	}
	return protoHTTP11
}

// noiseCounter is a slog.Handler that counts what the HTTP/3 engine would
// print: a stranger's connection trouble is no log line. A panic is: it is a
// mistake of ours.
type noiseCounter struct {
	m   *metrics
	log *slog.Logger
}

func (n noiseCounter) Enabled(context.Context, slog.Level) bool { return true }

func (n noiseCounter) Handle(_ context.Context, r slog.Record) error {
	kind := "other"
	switch {
	case strings.Contains(r.Message, "panic"):
		kind = "panic"
		n.log.Error("request handler panicked", "detail", r.Message)
	case strings.Contains(r.Message, "superfluous"):
		kind = "superfluous_header"
	}
	n.m.noise.WithLabelValues(kind).Inc()
	return nil
}

func (n noiseCounter) WithAttrs([]slog.Attr) slog.Handler { return n }
func (n noiseCounter) WithGroup(string) slog.Handler      { return n }
