package testnet

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/miekg/dns"
)

func TestLab(t *testing.T) {
	t.Parallel()
	l := NewLab(t)
	tld := l.Zone("org", 1)
	duck := l.Zone("duckdns.org", 2)
	l.Add("home.duckdns.org. 60 IN A 192.0.2.7", "alias.org. 60 IN CNAME home.duckdns.org.")

	in, _ := ask(t, tld[0], "udp", "home.duckdns.org", "A")
	if in.Authoritative || in.RecursionAvailable || len(in.Answer) != 0 || len(in.Ns) != 2 || len(in.Extra) != 2 {
		t.Errorf("a referral is wanted, got\n%v", in)
	}
	for _, d := range duck {
		if in, _ = ask(t, d, "udp", "home.duckdns.org", "A"); !in.Authoritative || in.RecursionAvailable || len(in.Answer) != 1 {
			t.Errorf("an authoritative answer is wanted, got\n%v", in)
		}
	}
	if in, _ = ask(t, duck[0], "udp", "example.net", "A"); in.Rcode != dns.RcodeRefused {
		t.Errorf("a refusal is wanted, got\n%v", in)
	}
	if in, _ = ask(t, l.Resolver, "udp", "alias.org", "A"); in.Authoritative || !in.RecursionAvailable || len(in.Answer) != 2 {
		t.Errorf("the alias and its address are wanted, got\n%v", in)
	}
	duck[0].SetFault("*", "*", Drop)
	if in, _ = ask(t, l.Resolver, "udp", "home.duckdns.org", "A"); len(in.Answer) != 1 {
		t.Errorf("the other server was not asked, got\n%v", in)
	}
	duck[1].SetFault("*", "*", Lame)
	if in, _ = ask(t, l.Resolver, "udp", "home.duckdns.org", "A"); in.Rcode != dns.RcodeServerFailure {
		t.Errorf("SERVFAIL is wanted, got\n%v", in)
	}
	l.Intercept(l.NewResolver())
	if in, _ = ask(t, tld[0], "udp", "alias.org", "CNAME"); in.Authoritative || !in.RecursionAvailable || len(in.Answer) != 1 {
		t.Errorf("a resolver's answer is wanted, got\n%v", in)
	}
	l.Intercept(nil)
	l.Expire("duckdns.org")
	if in, _ = ask(t, tld[0], "udp", "duckdns.org", "NS"); in.Rcode != dns.RcodeNameError || !in.Authoritative {
		t.Errorf("NXDOMAIN is wanted, got\n%v", in)
	}
}

func TestDoH(t *testing.T) {
	t.Parallel()
	d := NewDNS(t, "duckdns.org")
	d.Add(t, "home.duckdns.org. 60 IN A 192.0.2.7")
	h := NewDoH(t, d)
	q := new(dns.Msg)
	q.SetQuestion("home.duckdns.org.", dns.TypeA)
	body, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	post := func(kind string, body []byte) (int, []byte) {
		req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodPost, h.URL, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", kind)
		res, err := h.Client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, b
	}
	const kind = "application/dns-message"
	code, b := post(kind, body)
	in := new(dns.Msg)
	if err := in.Unpack(b); err != nil || code != 200 || len(in.Answer) != 1 {
		t.Errorf("got %d %v %v", code, err, in)
	}
	if code, _ := post("text/plain", body); code != 400 {
		t.Errorf("another type: %d", code)
	}
	if code, _ := post(kind, body[:5]); code != 400 {
		t.Errorf("half a message: %d", code)
	}
	d.SetFault("*", "*", Drop)
	if code, _ := post(kind, body); code != 504 {
		t.Errorf("silence: %d", code)
	}
	if h.Asked() != 4 {
		t.Errorf("asked %d times", h.Asked())
	}
}
