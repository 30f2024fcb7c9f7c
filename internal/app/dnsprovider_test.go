package app

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"postern/internal/config"
	"postern/internal/dnsapi"
	"postern/internal/dnscheck"
	"postern/internal/testnet"
	"postern/internal/tlsmgr"
)

// TestProvidersAgree: the file's providers are those that have a client, those of dns-01 and those of ddns.
func TestProvidersAgree(t *testing.T) {
	if got, want := config.DNSProviders(), dnsapi.Names(); !slices.Equal(got, want) {
		t.Errorf("the file knows %q, the clients are %q", got, want)
	}
	if got, want := config.DDNSProviders(), dnsapi.AddrNames(); !slices.Equal(got, want) {
		t.Errorf("for ddns the file knows %q, the clients are %q", got, want)
	}
}

// TestDNS01Kept: a reload that leaves the DNS host alone keeps the solver,
// which knows whose turn it is there.
func TestDNS01Kept(t *testing.T) {
	cfg := config.Default()
	check := dnscheck.New(dnscheck.Config{})
	next := func(d dns01) dns01 {
		t.Helper()
		out, err := d.next(cfg, check, tlsmgr.DNS01Config{})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	none := next(dns01{})
	if none.solver != nil {
		t.Error("a solver without a provider")
	}
	cfg.TLS.DNSProvider = &config.DNSProvider{Provider: "desec", Token: config.NewSecret("one")}
	first := next(none)
	cfg.TLS.DNSProvider = &config.DNSProvider{Provider: "desec", Token: config.NewSecret("one")}
	if again := next(first); again.solver != first.solver || first.solver == nil {
		t.Error("the same provider made another solver")
	}
	cfg.TLS.DNSProvider = &config.DNSProvider{Provider: "desec", Token: config.NewSecret("two")}
	if other := next(first); other.solver == first.solver {
		t.Error("another token kept the solver")
	}
	cfg.TLS.DNSProvider = &config.DNSProvider{Provider: "desec"}
	if _, err := first.next(cfg, check, tlsmgr.DNS01Config{}); err == nil {
		t.Error("no error without a token")
	}
}

// fakeDuckDNS is the API of DuckDNS before the name servers of a lab: one
// value, which every name below the subdomain answers with.
func fakeDuckDNS(t *testing.T, servers []*testnet.DNS, token string) (endpoint string, asked func() []string) {
	t.Helper()
	var mu sync.Mutex
	var said []string
	names := []string{"mypi.duckdns.org", "_acme-challenge.mypi.duckdns.org"}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if r.URL.Path != "/update" || q.Get("domains") != "mypi" || q.Get("token") != token || !q.Has("txt") {
			_, _ = io.WriteString(w, "KO")
			return
		}
		mu.Lock()
		defer mu.Unlock()
		said = append(said, map[bool]string{false: "set", true: "clear"}[q.Get("clear") == "true"])
		for _, d := range servers {
			for _, n := range names {
				d.Remove(n, "TXT")
				if q.Get("clear") != "true" {
					d.Add(t, fmt.Sprintf("%s 60 IN TXT %q", n, q.Get("txt")))
				}
			}
		}
		_, _ = io.WriteString(w, "OK")
	}))
	t.Cleanup(srv.Close)
	return srv.URL, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(said)
	}
}

// TestWildcardThroughDuckDNS: a file with tls.dns_provider is all it takes for
// a name and its wildcard, without a port that the authority can reach.
func TestWildcardThroughDuckDNS(t *testing.T) {
	lab := testnet.NewLab(t)
	lab.Zone("org", 1)
	duck := lab.Zone("duckdns.org", 2)
	lab.Add("mypi.duckdns.org. 60 IN A 127.0.0.1")
	const token = "a7c4d0ad-114e-40ef-ba1d-d217904a50f2"
	endpoint, asked := fakeDuckDNS(t, duck, token)
	ca := testnet.NewCA(t, testnet.CAOptions{CheckCAA: true, DNS: lab.Resolver})
	p := start(t, fmt.Sprintf(`email: me@example.net
listen: {http: "", https: "127.0.0.1:0"}
data: %s
admin: {listen: ""}
grace: 100ms
dns: {resolvers: [%q], authoritative_port: %d, doh: []}
tls:
  acme: {directory: %q, root: %q, challenges: [dns-01]}
  dns_provider: {provider: duckdns, token: %s, endpoint: %q}
sites:
  - hosts: [mypi.duckdns.org, "*.mypi.duckdns.org"]
    upstream: %s
`, t.TempDir(), lab.Resolver.Addr, lab.Port, ca.DirectoryURL, ca.RootFile, token, endpoint, backend(t, "hello")))
	until(t, "the certificates", func() bool {
		return !slices.ContainsFunc(p.certs.Status(), func(s tlsmgr.CertStatus) bool { return s.State != tlsmgr.StateOK })
	})
	for _, host := range []string{"mypi.duckdns.org", "app.mypi.duckdns.org"} {
		res, err := p.client(ca.IssuerRoots).Get("https://" + host + "/")
		if got, want := body(t, res, err), "200 hello"; got != want {
			t.Errorf("%s: got %q, want %q", host, got, want)
		}
	}
	if got, want := strings.Join(asked(), " "), "set clear set clear"; got != want {
		t.Errorf("DuckDNS heard %q, want one value after the other: %q", got, want)
	}
	p.end()
	if strings.Contains(p.log.String(), token) {
		t.Error("the log shows the token")
	}
}
