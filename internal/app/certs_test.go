package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"postern/internal/admin"
	"postern/internal/testnet"
	"postern/internal/tlsmgr"
)

// servedSerial is of the certificate that clients get for name.
func (p *process) servedSerial(name string) string {
	p.t.Helper()
	d := tls.Dialer{Config: &tls.Config{ServerName: name, InsecureSkipVerify: true}}
	conn, err := d.DialContext(p.t.Context(), "tcp", p.Addrs("https")[0])
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Text(16)
}

// renew does what `proxy certs renew` does, once the first certificate, which
// is served before its attempt has ended, is not in the way any more.
func (p *process) renew(name string, force bool) (Cert, error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	var began Asked
	var err error
	until(p.t, "the end of another attempt", func() bool {
		began, err = RenewCert(ctx, p.AdminAddr(), "", name, force)
		busy, ok := errors.AsType[*admin.Problem](err)
		return !ok || busy.Reason != tlsmgr.RefusedBusy
	})
	if err != nil {
		return Cert{}, err
	}
	c, err := WaitForCert(ctx, p.AdminAddr(), "", began)
	if err != nil {
		p.t.Fatal(err)
	}
	return c, nil
}

func (p *process) cert(name string) Cert {
	p.t.Helper()
	list, err := Certs(p.t.Context(), p.AdminAddr(), "")
	if err != nil {
		p.t.Fatal(err)
	}
	for _, c := range list {
		if c.Name == name {
			return c
		}
	}
	p.t.Fatalf("%s is not in %+v", name, list)
	return Cert{}
}

func TestRenewChangesTheSerial(t *testing.T) {
	data := t.TempDir()
	p := start(t, localFile(data, "sites:\n  - {hosts: [one.test, two.test], http: serve, upstream: \"127.0.0.1:1\"}\n"))
	for _, name := range []string{"one.test", "two.test"} {
		until(t, "the certificate of "+name, func() bool { return p.cert(name).State == tlsmgr.StateOK })
	}
	one, two := p.servedSerial("one.test"), p.servedSerial("two.test")
	if got := p.cert("one.test"); got.Serial != one || got.Renewal != nil || got.NextTry.IsZero() || got.AttemptsLeft != nil {
		t.Errorf("before: %+v, served %s", got, one)
	}
	c, err := p.renew("one.test", false)
	if err != nil || c.Renewal.Error != "" {
		t.Fatalf("%v: %+v", err, c.Renewal)
	}
	if got := p.servedSerial("one.test"); got == one || got != c.Serial {
		t.Errorf("served %s, before %s, told %s", got, one, c.Serial)
	}
	if got := p.servedSerial("two.test"); got != two {
		t.Error("another name was renewed too")
	}
	text, ok := RenewedCert(c, time.Now())
	if !ok || !strings.Contains(text, c.Serial) {
		t.Errorf("%v %s", ok, text)
	}
	p.end()

	// What is on disk is what was served.
	cfg := p.cfg
	stored, err := StoredCerts(cfg)
	if err != nil || len(stored) != 2 || stored[0].Serial != c.Serial {
		t.Errorf("%v: %+v, want the serial %s", err, stored, c.Serial)
	}
	if _, err := Certs(t.Context(), "127.0.0.1:1", ""); !NobodyAnswers(err) {
		t.Errorf("nobody there: %v", err)
	}
}

// withCA starts a process with one site, name, and an authority that checks
// CAA.
func withCA(t *testing.T, name string, perHour int) (*process, *testnet.CA) {
	t.Helper()
	ports := freePorts(t, 2)
	ca := testnet.NewCA(t, testnet.CAOptions{HTTPPort: ports[0], TLSPort: ports[1], DNS: publicDNS(t), CheckCAA: true})
	p := start(t, fmt.Sprintf(`email: me@example.org
listen: {http: "127.0.0.1:%d", https: "127.0.0.1:%d"}
data: %s
admin: {listen: "127.0.0.1:0"}
grace: 100ms
%s
tls:
  acme: {directory: %q, root: %q, challenges: [http-01]}
  retry: {check: 1s, attempts_per_hour: %d}
sites: [{hosts: [%s], upstream: "127.0.0.1:1"}]
`, ports[0], ports[1], t.TempDir(), lookUpsAt(ca.DNS), ca.DirectoryURL, ca.RootFile, perHour, name))
	until(t, "the certificate", func() bool { return p.cert(name).State == tlsmgr.StateOK })
	return p, ca
}

// problem is what the running postern has against a request.
func problem(t *testing.T, err error) *admin.Problem {
	t.Helper()
	p, ok := errors.AsType[*admin.Problem](err)
	if !ok {
		t.Fatalf("%v, want a problem", err)
	}
	return p
}

func TestRenewStaysWithinTheBudget(t *testing.T) {
	const name = "budget.example.org"
	p, ca := withCA(t, name, 2)

	// One attempt of two is left.
	first := p.servedSerial(name)
	c, err := p.renew(name, false)
	if err != nil || c.Renewal.Error != "" || c.Serial == first || *c.AttemptsLeft != 0 || c.Verdict != "green" {
		t.Fatalf("%v: %+v, %+v", err, c, c.Renewal)
	}
	orders := ca.Orders()
	_, err = p.renew(name, false)
	if got := problem(t, err); got.Status != http.StatusConflict || got.Reason != "budget" || !strings.Contains(got.Detail, "the 2 attempts of this hour are spent; possible again ") || !strings.HasSuffix(got.Detail, "--force tries all the same") {
		t.Errorf("%+v", got)
	}
	if ca.Orders() != orders {
		t.Error("an order was placed past the budget")
	}

	// Force says what it costs, and gets one.
	began, err := RenewCert(t.Context(), p.AdminAddr(), "", name, true)
	if err != nil || !strings.Contains(began.Cost, "more than this hour's budget has") || *began.AttemptsLeft != 0 {
		t.Fatalf("%v: %+v", err, began)
	}
	forced, err := WaitForCert(t.Context(), p.AdminAddr(), "", began)
	if err != nil || forced.Renewal.Error != "" || forced.Serial == c.Serial || !forced.Renewal.Forced {
		t.Fatalf("%v: %+v, %+v", err, forced, forced.Renewal)
	}
	if got := ca.Orders(); got != orders+1 {
		t.Errorf("%d orders, want %d", got, orders+1)
	}
	if got := p.servedSerial(name); got != forced.Serial {
		t.Errorf("served %s, told %s", got, forced.Serial)
	}

	if _, err := p.renew("other.example.org", true); problem(t, err).Status != http.StatusNotFound {
		t.Errorf("unknown name: %v", err)
	}
}

// While the DNS is broken nobody spends an attempt by accident. With force the
// authority is asked, and its own words are told with what they mean.
func TestRenewBehindTheDNS(t *testing.T) {
	const name = "force.example.org"
	p, ca := withCA(t, name, 4)
	until(t, "the end of the attempt", func() bool { return strings.Contains(p.log.String(), `"certificate obtained"`) })
	held, orders := p.servedSerial(name), ca.Orders()
	ca.DNS.SetFault("*", "CAA", testnet.ServFail)
	until(t, "the refusal", func() bool {
		// The first one begins with a look at the DNS, which was well.
		c, err := p.renew(name, false)
		if err == nil && !strings.Contains(c.Renewal.Refused, "; --force tries all the same") {
			t.Fatalf("%+v", c.Renewal)
		}
		return err != nil
	})
	_, err := p.renew(name, false)
	if got := problem(t, err); got.Reason != "dns" || !strings.Contains(got.Detail, "CAA") || !strings.HasSuffix(got.Detail, "; postern tries by itself within seconds of the recovery; --force tries all the same") {
		t.Errorf("%+v", got)
	}
	if got := ca.Orders(); got != orders {
		t.Errorf("%d orders while the DNS is red, want %d", got, orders)
	}
	c, err := p.renew(name, true)
	if err != nil || !strings.Contains(c.Renewal.Error, "SERVFAIL looking up CAA for "+name) || !strings.Contains(c.Renewal.Meaning, "question for CAA") || *c.AttemptsLeft != 2 {
		t.Errorf("%v: %+v, %+v", err, c, c.Renewal)
	}
	if got := ca.Orders(); got != orders+1 {
		t.Errorf("%d orders with force, want %d", got, orders+1)
	}
	if got := p.servedSerial(name); got != held {
		t.Errorf("served %s, want what was held, %s", got, held)
	}
	var table strings.Builder
	if err := WriteCerts(&table, []Cert{p.cert(name)}, true, time.Now()); err != nil || !strings.Contains(table.String(), "\n  red since ") || !strings.Contains(table.String(), "\n  last error at ") || !strings.Contains(table.String(), "\n  which means: ") {
		t.Errorf("%v\n%s", err, table.String())
	}
}

// The page shows the certificates, and the API takes changes only as it should.
func TestAdminShowsCertificates(t *testing.T) {
	data := t.TempDir()
	p := start(t, localFile(data, "sites:\n  - {hosts: [one.test], http: serve, upstream: \"127.0.0.1:1\"}\n"))
	until(t, "the certificate", func() bool { return p.cert("one.test").State == tlsmgr.StateOK })
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", p.AdminAddr())
		},
	}}
	res, err := client.Get("http://localhost/")
	if got := body(t, res, err); !strings.Contains(got, "<h2>Certificates</h2>") || !strings.Contains(got, `<td data-label="issuer">Postern Local CA`) {
		t.Error(got)
	}
	before := p.cert("one.test").Serial
	res, err = client.Post("http://localhost/certs/renew?name=one.test", "text/plain", strings.NewReader("x"))
	if got := body(t, res, err); !strings.HasPrefix(got, "403 ") {
		t.Error(got)
	}
	if p.cert("one.test").Serial != before {
		t.Error("it was renewed")
	}
}
