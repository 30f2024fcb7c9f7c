package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"strings"
	"testing"
	"time"

	"postern/internal/caller"
)

// TestClientCertificates: a route for callers with certificates serves them and
// nobody else, over both engines, on fresh and on resumed connections.
func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	store, err := caller.OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	reg, err := caller.New(caller.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	book, err := reg.Prepare([]caller.Caller{
		{Name: "phone", Certificate: &caller.CertificateRule{}},
		{Name: "ci", KeyHashes: []caller.KeyHash{caller.HashKey(ciKey)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	reg.Use(book)
	site := proxyTo(t, backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(r.Header.Get("X-Postern-Caller") + " " + r.Header.Get("X-Postern-Caller-Method")))
	}))
	site.callers = map[string][]string{"/*": {"phone"}}
	r := start(t, options{book: book, sites: []testSite{site}, limits: quick(patience), clientAuth: tls.RequestClientCert})
	certPEM, keyPEM, made, err := store.AddCertificate("phone", caller.CertLife, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := reg.Reload(); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	client := func(h2 bool, cert ...tls.Certificate) *http.Client {
		c := r.httpClient(h2)
		cfg := c.Transport.(*http.Transport).TLSClientConfig
		cfg.Certificates = cert
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(4)
		return c
	}
	strange := *certificate(t)
	for _, h2 := range []bool{false, true} {
		c := client(h2, pair)
		for i := range 3 {
			res, body := ask(t, c, "https://a.test/")
			if res.StatusCode != 200 || body != "phone mtls" {
				t.Errorf("h2 %v, connection %d: %d %s", h2, i, res.StatusCode, body)
			}
			if i > 0 && res.TLS != nil && !res.TLS.DidResume {
				t.Errorf("h2 %v, connection %d: not resumed", h2, i)
			}
			c.CloseIdleConnections()
		}
		if res, body := ask(t, client(h2), "https://a.test/"); res.StatusCode != 401 || !strings.Contains(body, "no_credentials") {
			t.Errorf("h2 %v, no certificate: %d %s", h2, res.StatusCode, body)
		}
		if res, body := ask(t, client(h2, strange), "https://a.test/"); res.StatusCode != 401 || !strings.Contains(body, "invalid_credentials") {
			t.Errorf("h2 %v, a strange certificate: %d %s", h2, res.StatusCode, body)
		}
		if res, body := ask(t, client(h2), "https://a.test/", "X-Api-Key", ciKey); res.StatusCode != 403 {
			t.Errorf("h2 %v, a caller without a certificate: %d %s", h2, res.StatusCode, body)
		}
		if res, body := ask(t, c, "https://a.test/", "Authorization", "Bearer the application's own"); res.StatusCode != 200 {
			t.Errorf("h2 %v, a certificate and a token for the application: %d %s", h2, res.StatusCode, body)
		}
	}
	held := client(true, pair)
	ask(t, held, "https://a.test/")
	if n, err := store.Revoke("phone", made.Serial, time.Now()); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if err := reg.Reload(); err != nil {
		t.Fatal(err)
	}
	if res, body := ask(t, held, "https://a.test/"); res.StatusCode != 401 || !strings.Contains(body, "revoked_certificate") {
		t.Errorf("taken back: %d %s", res.StatusCode, body)
	}
	if leaf, err := x509.ParseCertificate(pair.Certificate[0]); err != nil || leaf.SerialNumber.Text(16) != made.Serial {
		t.Errorf("serial %v, %v", leaf.SerialNumber, err)
	}
}
