package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func FuzzPCP(f *testing.F) {
	req := mapRequest{nonce: [12]byte{1}, client: netip.MustParseAddr("192.168.1.9"), proto: protoTCP, internal: 443, external: 443, lifetime: 3600, prefer: true}
	answer := req.encode()
	answer[1] |= isResponse
	f.Add(answer)
	f.Add(answer[:24])
	f.Add([]byte{0, 0x81, 0, 1, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMapResponse(b)
		switch {
		case err != nil:
		case len(b) < 60 || len(b) > pcpMaxLen || b[0] != 2 || b[1] != 0x81:
			t.Errorf("%x was taken for an answer to MAP", b)
		case !m.addr.IsValid() || m.addr.Is4In6():
			t.Errorf("the address is %v", m.addr)
		}
		_ = (&pcpError{code: m.result}).Error()
		_ = isAnnouncement(b)
	})
}

func FuzzNATPMP(f *testing.F) {
	f.Add([]byte{0, 0x80, 0, 0, 0, 0, 0, 9, 203, 0, 113, 7}, byte(0))
	f.Add([]byte{0, 0x82, 0, 0, 0, 0, 0, 9, 1, 187, 1, 187, 0, 0, 14, 16}, byte(2))
	f.Add([]byte{0, 0x81, 0, 2, 0, 0, 0, 9}, byte(1))
	f.Add([]byte{2, 0x81, 0, 1}, byte(1))
	f.Fuzz(func(t *testing.T, b []byte, op byte) {
		op %= 3
		r, err := parsePMPResponse(b, op)
		if err == nil && (b[1] != op|0x80 || b[0] != 0 || b[2] != 0 || b[3] != 0) {
			t.Errorf("%x was taken for an answer to opcode %d", b, op)
		}
		if err == nil && op == pmpAddress && !r.addr.Is4() {
			t.Errorf("the address is %v", r.addr)
		}
		if e, ok := errors.AsType[*pmpError](err); ok {
			_ = e.Error()
		}
	})
}

func FuzzSSDP(f *testing.F) {
	router := netip.MustParseAddr("192.168.1.1")
	f.Add([]byte("HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nLOCATION: http://192.168.1.1:5000/rootDesc.xml\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nLOCATION: http://192.168.1.1@evil.example/\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nLocation: http://192.168.1.1:0/\r\nst:upnp:WAN"))
	f.Add([]byte("NOTIFY * HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		location, err := parseSearchAnswer(b)
		if err != nil {
			return
		}
		u, err := onRouter(location, nil, router)
		if err != nil {
			if len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		wantOnRouter(t, u, router)
	})
}

// wantOnRouter checks where a request to u would really go.
func wantOnRouter(t *testing.T, u *url.URL, router netip.Addr) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u.String(), nil)
	if err != nil {
		t.Errorf("%q is no URL after all: %v", u, err)
		return
	}
	if a, err := netip.ParseAddr(req.URL.Hostname()); err != nil || a != router || req.URL.Scheme != "http" || req.URL.User != nil {
		t.Errorf("%q leads to %q, want %s", u, req.URL.Host, router)
	}
}

func FuzzDescription(f *testing.F) {
	f.Add([]byte(`<root><URLBase>http://192.168.1.1:5000/</URLBase><device><manufacturer>a</manufacturer><modelName>b</modelName><deviceList><device><serviceList><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>/ctl</controlURL></service></serviceList></device></deviceList></device></root>`))
	f.Add([]byte(`<root><device><serviceList><service><serviceType>urn:schemas-upnp-org:service:WANPPPConnection:1</serviceType><controlURL>//10.0.0.1/</controlURL></service></serviceList></device></root>`))
	f.Add([]byte(`<root><device><serviceList><service><serviceType>urn:schemas-upnp-org:service:WANIPv6FirewallControl:1</serviceType><controlURL>http://192.168.1.1:65536/</controlURL></service></serviceList></device></root>`))
	f.Add([]byte(strings.Repeat("<deviceList><device>", 200)))
	router := netip.MustParseAddr("192.168.1.1")
	base, err := url.Parse("http://192.168.1.1:5000/rootDesc.xml")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parseDescription(b, base, router)
		if err != nil {
			return
		}
		if len(d.wan) > maxServices || !isClean(d.name) {
			t.Errorf("%d services, name %q", len(d.wan), d.name)
		}
		for _, s := range d.wan {
			wantOnRouter(t, s.control, router)
		}
		if d.firewall != nil {
			wantOnRouter(t, d.firewall.control, router)
		}
	})
}

// isClean tells whether a text of the router may be printed.
func isClean(s string) bool {
	return utf8.RuneCountInString(s) <= 81 && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// answering is a router that answers every HTTP request with one body.
type answering struct {
	status int
	body   []byte
}

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status, Status: http.StatusText(a.status), ContentLength: -1, Body: io.NopCloser(bytes.NewReader(a.body)), Request: r}, nil
}

func FuzzSOAP(f *testing.F) {
	envelope := func(s string) []byte {
		return []byte(`<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>` + s + `</s:Body></s:Envelope>`)
	}
	f.Add(envelope(`<u:GetExternalIPAddressResponse xmlns:u="x"><NewExternalIPAddress>203.0.113.7</NewExternalIPAddress></u:GetExternalIPAddressResponse>`), true)
	f.Add(envelope(`<u:R xmlns:u="x"><NewInternalPort>443</NewInternalPort><NewInternalClient>192.168.1.7</NewInternalClient><NewEnabled>1</NewEnabled><NewPortMappingDescription>camera</NewPortMappingDescription><NewLeaseDuration>0</NewLeaseDuration></u:R>`), true)
	f.Add(envelope(`<s:Fault><faultcode>s:Client</faultcode><detail><UPnPError><errorCode>718</errorCode><errorDescription>`+strings.Repeat("\t", 500)+`</errorDescription></UPnPError></detail></s:Fault>`), false)
	f.Add([]byte("<html>"), false)
	c, err := New(Config{})
	if err != nil {
		f.Fatal(err)
	}
	u, err := url.Parse("http://192.168.1.1:5000/ctl")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, ok bool) {
		status := http.StatusOK
		if !ok {
			status = http.StatusInternalServerError
		}
		d := &device{http: &http.Client{Transport: bounded{answering{status, body}, maxReply}}}
		s := service{serviceIP1, u}
		a, err := c.externalAddress(context.Background(), d, s)
		if err == nil && (!a.Is4() || a.IsUnspecified()) {
			t.Errorf("the address is %v", a)
		}
		if err != nil && (len(err.Error()) > 1000 || !isClean(lastPart(err))) {
			t.Errorf("the error is %q", err)
		}
		if pe, there, err := c.lookUp(context.Background(), d, s, "tcp", 443); err == nil && there && (!isClean(pe.client) || !isClean(pe.description)) {
			t.Errorf("the entry is %+v", pe)
		}
	})
}

// lastPart is what follows our own words in an error.
func lastPart(err error) string {
	_, after, _ := strings.Cut(err.Error(), ": ")
	return after[:min(len(after), 60)]
}
