package dnscheck

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"postern/internal/testnet"
)

// single is a lab in which one server is resolver and authority, as small
// tests have it.
func single(t *testing.T, apexes ...string) (*testnet.DNS, Config) {
	t.Helper()
	d := testnet.NewDNS(t, apexes...)
	_, text, err := net.SplitHostPort(d.Addr)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return d, Config{Resolvers: []string{d.Addr}, AuthoritativePort: port, Timeout: 700 * time.Millisecond}
}

func TestOneServer(t *testing.T) {
	t.Parallel()
	d, cfg := single(t, "duckdns.org")
	d.Add(t, home+" 60 IN A 127.0.0.1")
	c := New(cfg)
	q := Question{Name: home, CAs: []string{"letsencrypt.org"}, Challenge: "http-01"}
	for _, step := range []struct {
		fault testnet.Fault
		want  string
	}{
		{testnet.NoFault, "green ok: DuckDNS's name servers answer (1 of 1)"},
		{testnet.Drop, "red caa_timeout: DuckDNS's name servers do not answer CAA (1 of 1 timed out)"},
		{testnet.NoFault, "green ok: DuckDNS's name servers answer (1 of 1)"},
	} {
		d.SetFault(home, "CAA", step.fault)
		if v := c.Check(t.Context(), q); v.String() != step.want {
			t.Errorf("fault %d: got %s, want %s", step.fault, v, step.want)
			dump(t, v)
		}
	}
}

// Where nobody tells of name servers, resolvers are judged alone.
func TestNoNameServers(t *testing.T) {
	t.Parallel()
	d, cfg := single(t)
	d.AnswerAll("127.0.0.1")
	c := New(cfg)
	if v := c.Check(t.Context(), Question{Name: home}); v.Colour != Amber || v.Cause != NSUnknown {
		t.Error(v)
	}
	d.SetFault(home, "CAA", testnet.Drop)
	if v, want := c.Check(t.Context(), Question{Name: home}), "red caa_timeout: resolvers do not answer CAA of home.duckdns.org (1 of 1 timed out)"; v.String() != want {
		t.Errorf("got %s, want %s", v, want)
	}
}

// One Checker serves many names at once.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	d, cfg := single(t, "org")
	d.AnswerAll("127.0.0.1")
	cfg.File, cfg.Timeout = filepath.Join(t.TempDir(), "ns.json"), 5*time.Second
	c := New(cfg)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if v := c.Check(t.Context(), Question{Name: fmt.Sprintf("n%d.example.org", i)}); v.Colour != Green {
				t.Error(v)
			}
		})
	}
	wg.Wait()
}
