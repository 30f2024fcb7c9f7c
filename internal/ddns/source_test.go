package ddns

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"postern/internal/testnet"
)

// TestEchoes asks real services on loopback, well and broken.
func TestEchoes(t *testing.T) {
	e := testnet.NewEcho(t, home1)
	pem, err := os.ReadFile(e.RootFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	sources := map[string]func(context.Context) (netip.Addr, error){
		"https": func(ctx context.Context) (netip.Addr, error) {
			c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
			return httpsEcho(ctx, c, e.HTTPS)
		},
		"dns over TLS": (&dnsEcho{name: "whoami.cloudflare.", server: e.DoT, qtype: dns.TypeTXT, class: dns.ClassCHAOS,
			tls: &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}}).addr,
	}
	for _, name := range []string{"whoami.cloudflare", "myip.opendns.com", "o-o.myaddr.l.google.com"} {
		s, err := NewDNSEcho(name + "@" + e.DNS)
		if err != nil {
			t.Fatal(err)
		}
		sources[name] = s.Addr
	}
	for name, ask := range sources {
		s := Source{Kind: DNSEcho, Name: name, Addr: ask}
		for _, c := range []struct {
			fault testnet.EchoFault
			says  netip.Addr
			want  netip.Addr
			err   string
		}{
			{testnet.EchoWell, home1, home1, ""},
			{testnet.EchoWell, cgnat, cgnat, ""},
			{testnet.EchoWell, six1, netip.Addr{}, "no IPv4 address"},
			{testnet.EchoError, home1, netip.Addr{}, "the answer is "},
			{testnet.EchoNonsense, home1, netip.Addr{}, "no IPv4 address"},
			{testnet.EchoWell, home2, home2, ""},
		} {
			e.Break(c.fault)
			e.Say(c.says)
			got, err := s.ask(t.Context())
			if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s, fault %d, %v: %v, %v, want %v, %q", name, c.fault, c.says, got, err, c.want, c.err)
			}
		}
		e.Break(testnet.EchoHang)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := s.ask(ctx); err == nil || !strings.Contains(err.Error(), "no answer in time") {
			t.Errorf("%s hangs: %v", name, err)
		}
		cancel()
	}
}

// TestEchoUntrusted: a certificate that nobody vouches for is no answer.
func TestEchoUntrusted(t *testing.T) {
	e := testnet.NewEcho(t, home1)
	s, err := NewHTTPSEcho(e.HTTPS)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := s.ask(t.Context()); err == nil {
		t.Errorf("believed %v", a)
	}
	d := &dnsEcho{name: "whoami.cloudflare.", server: e.DoT, qtype: dns.TypeTXT, class: dns.ClassCHAOS, tls: &tls.Config{ServerName: "127.0.0.1"}}
	if a, err := d.addr(t.Context()); err == nil {
		t.Errorf("believed %v", a)
	}
}

func TestDNSEchoSpecs(t *testing.T) {
	for _, bad := range []string{"", "1.1.1.1", "@1.1.1.1", "whoami.cloudflare@", "a b@1.1.1.1", "a@https://x/", "a@1.1.1.1:0", "a@1.1.1.1:dns"} {
		if _, err := NewDNSEcho(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	for _, bad := range []string{"", "api.ipify.org", "ftp://x", "https://u:p@x", "https://"} {
		if _, err := NewHTTPSEcho(bad); err == nil {
			t.Errorf("%q is taken", bad)
		} else if strings.Contains(err.Error(), "u:p") {
			t.Error("the error shows what was given")
		}
	}
}

func TestParseEcho(t *testing.T) {
	for body, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", " 192.0.2.1\r\n": "192.0.2.1", "2001:db8::1": "2001:db8::1",
		`{"ip":"192.0.2.1"}`: "192.0.2.1", `{"ip":7,"query":"192.0.2.1"}`: "192.0.2.1",
		"": "", "<html>192.0.2.1</html>": "", "192.0.2.1 192.0.2.2": "", `{"ip":"x"}`: "", `["192.0.2.1"]`: "", "null": "",
		strings.Repeat(" ", maxEcho) + "192.0.2.1": "",
	} {
		got, err := parseEcho([]byte(body))
		if (err == nil) != (want != "") || err == nil && got.String() != want {
			t.Errorf("%.40q: %v, %v, want %q", body, got, err, want)
		}
	}
}

// TestHTTPSEchoFollowsNobody: a redirect is not the service.
func TestHTTPSEchoFollowsNobody(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, liar) }))
	defer other.Close()
	srv := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusFound))
	defer srv.Close()
	s, err := NewHTTPSEcho(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := s.ask(t.Context()); err == nil {
		t.Errorf("believed %v", a)
	}
}

// FuzzParseEcho: whatever a web server sends, it is an address or an error.
func FuzzParseEcho(f *testing.F) {
	f.Add([]byte("192.0.2.1\n"))
	f.Add([]byte(`{"ip":"192.0.2.1"}`))
	f.Add([]byte(`{"ip":{"ip":[]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if a, err := parseEcho(body); (err == nil) != a.IsValid() {
			t.Errorf("%q: %v, %v", body, a, err)
		}
	})
}

// TestLocalAddrs: what the system tells can be read, and loopback is in it.
func TestLocalAddrs(t *testing.T) {
	all, err := localAddrs()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, a := range all {
		found = found || a.Addr.IsLoopback() && a.Link != ""
		if a.Addr.IsLoopback() && Public(a.Addr) {
			t.Errorf("%+v is taken for public", a)
		}
	}
	if !found {
		t.Skipf("no loopback address among %d; the network of this place is not up", len(all))
	}
}
