package proxy

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"postern/internal/caller"
)

// TestCallersOverHTTP3: the third engine asks the same.
func TestCallersOverHTTP3(t *testing.T) {
	r := callerRig(t, options{clientAuth: tls.RequestClientCert}, shop(), caller.Caller{Name: "phone", Certificate: &caller.CertificateRule{}})
	c := clientH3(t, r.listenH3())
	for _, tc := range []struct {
		path   string
		fields []string
		status int
		want   string
	}{
		{"/orders/1", []string{"Authorization", "Bearer " + ordersKey}, 200, `"X-Postern-Caller":["orders"]`},
		{"/orders/1", []string{"X-Api-Key", ciKey}, 403, "caller_not_allowed"},
		{"/orders/1", nil, 401, "no_credentials"},
		{"/", []string{"X-Postern-Caller", "admin"}, 200, "{"},
	} {
		res, body := ask(t, c, "https://a.test"+tc.path, tc.fields...)
		if res.StatusCode != tc.status || !strings.Contains(body, tc.want) || strings.Contains(body, "admin") || strings.Contains(body, ordersKey) {
			t.Errorf("%s %v: %d %s", tc.path, tc.fields, res.StatusCode, body)
		}
	}
	for _, told := range []bool{true, false} {
		if status, body := statusOf(t, c, signedRequest(t, "https://a.test/all/1", "the body", "the body", told)); status != 200 || !strings.Contains(body, `"X-Postern-Caller":["shop"]`) {
			t.Errorf("signed: %d %s", status, body)
		}
		if status, body := statusOf(t, c, signedRequest(t, "https://a.test/all/1", "the body", "another", told)); status != 401 {
			t.Errorf("another body: %d %s", status, body)
		}
	}
	certPEM, keyPEM, _, err := r.store.AddCertificate("phone", caller.CertLife, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.callers.Reload(); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	phone := clientH3(t, r.listenH3(), func(tr *http3.Transport) { tr.TLSClientConfig.Certificates = []tls.Certificate{pair} })
	if res, body := ask(t, phone, "https://a.test/all/1"); res.StatusCode != 200 || !strings.Contains(body, `"X-Postern-Caller":["phone"]`) {
		t.Errorf("certificate: %d %s", res.StatusCode, body)
	}
}
