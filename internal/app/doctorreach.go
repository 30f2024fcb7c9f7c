package app

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"postern/internal/doctor"
	"postern/internal/tlsmgr"
)

// The question whether it is us who answers at the public address is asked on
// the path of http-01 challenges, which nothing else may take: what answers
// there would answer the certificate authority.
const (
	noncePath  = "/.well-known/acme-challenge/"
	nonceMark  = "postern-doctor-"
	mostNonces = 32 // open questions; more are the doing of nobody
	reachTime  = 5 * time.Second
)

// nonces are the open questions to ourselves.
type nonces struct {
	key  [32]byte // of this process; made with the first question
	mu   sync.Mutex
	open []string
}

// ask opens a question. The answer is right only from this process.
func (n *nonces) ask() (token, answer string, done func()) {
	token = nonceMark + rand.Text()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.key == [32]byte{} {
		_, _ = rand.Read(n.key[:]) // never fails
	}
	if len(n.open) >= mostNonces {
		n.open = n.open[1:]
	}
	n.open = append(n.open, token)
	return token, n.sign(token), func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.open = slices.DeleteFunc(n.open, func(t string) bool { return t == token })
	}
}

func (n *nonces) sign(token string) string {
	mac := hmac.New(sha256.New, n.key[:])
	mac.Write([]byte(token))
	return hex.EncodeToString(mac.Sum(nil))
}

// answer serves an open question, and reports whether it was one.
func (n *nonces) answer(w http.ResponseWriter, r *http.Request) bool {
	token, ok := strings.CutPrefix(r.URL.Path, noncePath)
	if !ok || !strings.HasPrefix(token, nonceMark) {
		return false
	}
	n.mu.Lock()
	open := slices.Contains(n.open, token)
	n.mu.Unlock()
	if !open {
		return false
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.WriteString(w, n.sign(token)) // whoever asked may be gone
	return true
}

// challenge answers what certificate authorities and the doctor ask.
func (a *App) challenge(w http.ResponseWriter, r *http.Request) bool {
	return a.nonces.answer(w, r) || a.certs.HandleHTTPChallenge(w, r)
}

// reachChecks ask for us at the public address, the way a caller would.
func (p *patient) reachChecks() []doctor.Check {
	if p.app == nil {
		return []doctor.Check{{Component: "reached from outside", Run: func(context.Context) doctor.Result {
			return doctor.None("postern does not run, so nobody answers")
		}}}
	}
	if !p.wantsAddress() {
		return nil
	}
	var out []doctor.Check
	names := publicNames(p.cfg)
	names = names[:min(len(names), 1)]
	for _, name := range names {
		name = strings.Replace(name, "*", "postern-doctor", 1)
		needs := []string{"address", "carrier NAT", "double NAT"}
		for _, c := range p.mappingChecks() {
			needs = append(needs, c.ID)
		}
		if len(p.cfg.Listen.HTTP) > 0 {
			out = append(out, doctor.Check{Component: "reached from outside", Target: "http://" + name, Needs: needs, Timeout: 2 * reachTime, Run: func(ctx context.Context) doctor.Result {
				return p.reachHTTP(ctx, name)
			}})
		}
		if len(p.cfg.Listen.HTTPS) > 0 {
			out = append(out, doctor.Check{Component: "reached from outside", Target: "https://" + name, Needs: needs, Timeout: 2 * reachTime, Run: func(ctx context.Context) doctor.Result {
				return p.reachHTTPS(ctx, name)
			}})
		}
	}
	return out
}

// dialPublic connects to our public address.
func (p *patient) dialPublic(ctx context.Context, port string) (net.Conn, error) {
	if p.outside != nil {
		return p.outside(ctx, port)
	}
	addrs := p.app.publicAddresses()
	if len(addrs) == 0 {
		return nil, errNoAddress
	}
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	return new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(addrs[0].String(), port))
}

var errNoAddress = errors.New("the public address is not known")

// fromInside is the result when nobody answers: many routers do not bring a
// machine at home to its own public address.
func fromInside(name string, err error) doctor.Result {
	return doctor.None("cannot tell from inside (%v): the router may not lead this machine to its own public address; try `curl -v %s` from another network", err, name)
}

func (p *patient) reachHTTP(ctx context.Context, name string) doctor.Result {
	token, want, done := p.app.nonces.ask()
	defer done()
	nc, err := p.dialPublic(ctx, "80")
	if err != nil {
		return fromInside("http://"+name, err)
	}
	defer nc.Close()
	got, err := fetch(ctx, nc, name, noncePath+token)
	switch {
	case err != nil:
		return fromInside("http://"+name, err)
	case got.status == http.StatusOK && hmac.Equal(bytes.TrimSpace(got.body), []byte(want)):
		return doctor.OK("it is us who answers")
	}
	return p.stranger(ctx, "http", got)
}

func (p *patient) reachHTTPS(ctx context.Context, name string) doctor.Result {
	nc, err := p.dialPublic(ctx, "443")
	if err != nil {
		return fromInside("https://"+name, err)
	}
	defer nc.Close()
	deadline, _ := ctx.Deadline()
	_ = nc.SetDeadline(deadline) // a dead connection shows when it is used
	// The certificate itself is compared below, whoever signed it.
	tc := tls.Client(nc, &tls.Config{ServerName: name, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	if err := tc.HandshakeContext(ctx); err != nil {
		if _, held := p.app.holds(name); !held {
			return doctor.None("no certificate for %s is held yet, so there is nothing to compare", name)
		}
		if alert, ok := errors.AsType[tls.AlertError](err); ok {
			return doctor.Bad("forward port 443 of the router to this machine", "another server refuses the handshake (%v)", alert)
		}
		return fromInside("https://"+name, err)
	}
	leaf := tc.ConnectionState().PeerCertificates[0]
	if held, ok := p.app.holds(name); ok && held.NotAfter.Equal(leaf.NotAfter) && held.Serial == leaf.SerialNumber.Text(16) {
		return doctor.OK("it is us who answers")
	}
	got, err := fetch(ctx, tc, name, "/")
	if err != nil {
		got = page{}
	}
	got.cert = certName(leaf)
	return p.stranger(ctx, "https", got)
}

// holds is the certificate we show for name.
func (a *App) holds(name string) (tlsmgr.CertStatus, bool) {
	_, parent, _ := strings.Cut(name, ".")
	for _, s := range a.certs.Status() {
		if s.Serial != "" && (s.Name == name || s.Name == "*."+parent) {
			return s, true
		}
	}
	return tlsmgr.CertStatus{}, false
}

func certName(c *x509.Certificate) string {
	if len(c.DNSNames) > 0 {
		return c.DNSNames[0]
	}
	return c.Subject.CommonName
}

// page is what another server shows of itself.
type page struct {
	status              int
	server, title, auth string
	cert                string
	body                []byte
}

// String says it for people; what the server wrote is quoted.
func (g page) String() string {
	var parts []string
	if g.status != 0 {
		parts = append(parts, fmt.Sprintf("status %d", g.status))
	}
	for _, f := range []struct{ what, text string }{{"server", g.server}, {"title", g.title}, {"realm", g.auth}, {"certificate for", g.cert}} {
		if f.text != "" {
			parts = append(parts, fmt.Sprintf("%s %.60q", f.what, f.text))
		}
	}
	return strings.Join(parts, ", ")
}

// looks reports whether two pages come from the same server.
func (g page) looks(o page) bool {
	return o.status != 0 && g.server == o.server && g.title == o.title && g.auth == o.auth
}

// stranger judges a server that answers in our place.
func (p *patient) stranger(ctx context.Context, scheme string, got page) doctor.Result {
	port := map[string]string{"http": "80", "https": "443"}[scheme]
	if own, err := p.routerPage(ctx, scheme); err == nil && got.looks(own) || routerLike(got) {
		return doctor.Odd("try from another network; if the same page comes there, turn off remote administration in the router and forward port "+port+" to this machine",
			"the router's own page answers (%s): it does so towards this machine, perhaps towards everybody", got)
	}
	return doctor.Bad("forward port "+port+" of the router to this machine", "another server answers (%s)", got)
}

// routerPage is what the router shows at home.
func (p *patient) routerPage(ctx context.Context, scheme string) (page, error) {
	gate, _, err := p.machine.gate()
	if err != nil || !gate.IsValid() {
		return page{}, errUnknown
	}
	nc, err := p.dialRouter(ctx, gate, scheme)
	if err != nil {
		return page{}, err
	}
	defer nc.Close()
	return fetch(ctx, nc, gate.String(), "/")
}

func (p *patient) dialRouter(ctx context.Context, gate netip.Addr, scheme string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if scheme == "http" {
		return new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(gate.String(), "80"))
	}
	// It is asked what it is, and told nothing: who signed its certificate
	// does not matter.
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}}
	return d.DialContext(ctx, "tcp", net.JoinHostPort(gate.String(), "443"))
}

// routerWords are in the titles, realms and server fields of home routers'
// pages.
var routerWords = regexp.MustCompile(`(?i)fritz!|router|gateway|speedport|livebox|openwrt|luci|dd-wrt|mikrotik|routeros|unifi|edgeos|tp-?link|archer|netgear|asus|zyxel|d-?link|linksys|huawei|mini_httpd|micro_httpd|goahead|iptime|mercusys|technicolor|sagemcom|vodafone station`)

func routerLike(g page) bool {
	return routerWords.MatchString(g.title) || routerWords.MatchString(g.auth) || routerWords.MatchString(g.server)
}

var (
	titleTag = regexp.MustCompile(`(?is)<title[^>]*>(.{0,200}?)</title>`)
	realmTag = regexp.MustCompile(`(?i)realm="([^"]{0,100})"`)
)

// fetch asks for one page on nc and reads its beginning.
func fetch(ctx context.Context, nc net.Conn, host, path string) (page, error) {
	deadline, ok := ctx.Deadline()
	if !ok || time.Until(deadline) > reachTime {
		deadline = time.Now().Add(reachTime)
	}
	_ = nc.SetDeadline(deadline) // a dead connection shows when it is used
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+path, nil)
	if err != nil {
		return page{}, err
	}
	req.Header.Set("User-Agent", "postern-doctor")
	req.Close = true
	if err := req.Write(nc); err != nil {
		return page{}, err
	}
	res, err := http.ReadResponse(bufio.NewReader(io.LimitReader(nc, 64<<10)), req)
	if err != nil {
		return page{}, fmt.Errorf("no HTTP answer: %w", err)
	}
	defer res.Body.Close()
	g := page{status: res.StatusCode, server: res.Header.Get("Server")}
	g.body, _ = io.ReadAll(io.LimitReader(res.Body, 32<<10)) // the beginning is enough
	if m := titleTag.FindSubmatch(g.body); m != nil {
		g.title = strings.TrimSpace(string(m[1]))
	}
	if m := realmTag.FindStringSubmatch(res.Header.Get("Www-Authenticate")); m != nil {
		g.auth = m[1]
	}
	return g, nil
}
