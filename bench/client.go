package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"
)

// unitTimeout is how long a single unit may take before it has failed.
const unitTimeout = 20 * time.Second

// clients opens the connections of a job.
type clients struct {
	addr   string
	dialer net.Dialer
	tls    *tls.Config // nil: clear text
}

func newClients(j *job) (*clients, error) {
	c := &clients{addr: j.Addr, dialer: net.Dialer{Timeout: unitTimeout}}
	if j.Source != "" {
		c.dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(j.Source)}
	}
	if !j.TLS {
		return c, nil
	}
	pem, err := os.ReadFile(j.CA)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in it", j.CA)
	}
	protocol := "http/1.1"
	if j.Kind == "h2" {
		protocol = "h2"
	}
	// One key exchange for all: OpenSSL 3.0 has no ML-KEM, and the server's
	// choice should not decide the comparison.
	c.tls = &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, NextProtos: []string{protocol},
		CurvePreferences: []tls.CurveID{tls.X25519},
	}
	return c, nil
}

// dial opens a connection for host and says whether it resumed the session in
// cache, which may be nil.
func (c *clients) dial(host string, cache tls.ClientSessionCache) (net.Conn, bool, error) {
	nc, err := c.dialer.Dial("tcp", c.addr)
	if err != nil {
		return nil, false, err
	}
	_ = nc.SetDeadline(time.Now().Add(unitTimeout))
	if c.tls == nil {
		return nc, false, nil
	}
	cfg := c.tls.Clone()
	cfg.ServerName, cfg.ClientSessionCache = host, cache
	tc := tls.Client(nc, cfg)
	if err := tc.Handshake(); err != nil {
		_ = nc.Close()
		return nil, false, err
	}
	state := tc.ConnectionState()
	if want := cfg.NextProtos[0]; state.NegotiatedProtocol != want && want == "h2" {
		_ = nc.Close()
		return nil, false, fmt.Errorf("ALPN chose %q, want %s", state.NegotiatedProtocol, want)
	}
	return tc, state.DidResume, nil
}

// h1 sends one prepared request again and again over HTTP/1.1 connections.
type h1 struct {
	clients *clients
	host    string
	cache   tls.ClientSessionCache
	request []byte

	conn     net.Conn // nil: none open
	br       *bufio.Reader
	used     bool // conn has carried a request
	deadline time.Time
}

func newH1(j *job, n int, c *clients) *h1 {
	host, path, method := j.Hosts[n%len(j.Hosts)], j.Paths[n%len(j.Paths)], j.Method
	if method == "" {
		method = "GET"
	}
	head := method + " " + path + " HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: " + agent + "\r\nAccept: application/json\r\nAccept-Encoding: gzip, deflate, br\r\n"
	if j.Body > 0 {
		head += "Content-Type: application/octet-stream\r\nContent-Length: " + strconv.Itoa(j.Body) + "\r\n"
	}
	buffer := 64 << 10
	if j.Conns > 1000 {
		buffer = 4 << 10
	}
	return &h1{
		clients: c, host: host, br: bufio.NewReaderSize(nil, buffer),
		request: append([]byte(head+"\r\n"), bytes.Repeat([]byte("p"), j.Body)...),
	}
}

// agent is the User-Agent of all loads: that of a Node function.
const agent = "node-fetch/1.0 (+https://github.com/node-fetch/node-fetch)"

// open connects and says whether the session was resumed.
func (h *h1) open() (resumed bool, err error) {
	h.conn, resumed, err = h.clients.dial(h.host, h.cache)
	if err != nil {
		h.conn = nil
		return false, err
	}
	h.br.Reset(h.conn)
	h.used, h.deadline = false, time.Time{}
	return resumed, nil
}

func (h *h1) close() {
	if h.conn != nil {
		_ = h.conn.Close()
		h.conn = nil
	}
}

// errEarly wraps what ended a connection before a byte of the answer came.
var errEarly = errors.New("no byte of an answer")

// exchange sends the request and reads the answer, which must be 200. It
// returns the size of the answer's body.
func (h *h1) exchange() (int64, error) {
	now := time.Now()
	if h.deadline.Sub(now) < unitTimeout/2 { // moved rarely: it costs more than the request
		h.deadline = now.Add(unitTimeout)
		_ = h.conn.SetDeadline(h.deadline)
	}
	h.used = true
	if _, err := h.conn.Write(h.request); err != nil {
		return 0, fmt.Errorf("%w: %w", errEarly, err)
	}
	if _, err := h.br.Peek(1); err != nil {
		return 0, fmt.Errorf("%w: %w", errEarly, err)
	}
	a, err := readAnswer(h.br)
	if err != nil {
		return 0, err
	}
	n, err := skipBody(h.br, a.length)
	if err != nil {
		return n, fmt.Errorf("body of the answer: %w", err)
	}
	if a.closing {
		h.close()
	}
	if a.status != 200 {
		return n, fmt.Errorf("answer has status %d, want 200", a.status)
	}
	return n, nil
}

// answer is the head of a response.
type answer struct {
	status  int
	length  int64 // of the body; -1: chunked
	closing bool
}

func readAnswer(br *bufio.Reader) (answer, error) {
	a := answer{length: -2}
	line, err := br.ReadSlice('\n')
	if err != nil {
		return a, fmt.Errorf("head of the answer: %w", err)
	}
	if len(line) < 12 || string(line[:8]) != "HTTP/1.1" {
		return a, fmt.Errorf("answer begins with %.40q, want HTTP/1.1 and a status", line)
	}
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return a, fmt.Errorf("status of the answer: %w", err)
	}
	for {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return a, fmt.Errorf("head of the answer: %w", err)
		}
		name, value, more := field(line)
		switch {
		case !more && a.length == -2:
			return a, errors.New("answer has no length")
		case !more:
			return a, nil
		case is(name, "content-length"):
			if a.length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return a, fmt.Errorf("length of the answer: %w", err)
			}
		case is(name, "transfer-encoding"):
			a.length = -1
		case is(name, "connection"):
			a.closing = bytes.EqualFold(value, []byte("close"))
		}
	}
}

// isGone reports whether err is a connection that the other side ended.
func isGone(err error) bool {
	return err != nil && (errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, errEarly))
}
