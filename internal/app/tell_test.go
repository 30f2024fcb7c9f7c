package app

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/internal/ddns"
	"postern/internal/guard"
	"postern/internal/notify"
	"postern/internal/testnet"
	"postern/internal/upstream"
)

// A backend that is down for a while is told once, and once when it is up
// again; a restart of seconds is not worth a message.
func TestOutages(t *testing.T) {
	app := backendKey{"127.0.0.1:3000", "a.example.org"}
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	o := make(outages)
	for _, step := range []struct {
		after time.Duration
		is    upstream.TargetStatus
		want  []notify.Message
	}{
		{0, upstream.TargetStatus{Up: true, Since: start}, nil},
		{10 * time.Second, upstream.TargetStatus{Since: start.Add(10 * time.Second), LastError: "connection refused"}, nil},
		{20 * time.Second, upstream.TargetStatus{Up: true, Since: start.Add(20 * time.Second)}, nil},
		{60 * time.Second, upstream.TargetStatus{Since: start.Add(60 * time.Second), LastError: "connection refused"}, nil},
		{90 * time.Second, upstream.TargetStatus{Since: start.Add(60 * time.Second), LastError: "connection refused"}, []notify.Message{
			{Kind: notify.BackendDown, Args: map[string]string{"backend": app.backend, "site": app.site, "sentence": "connection refused"}},
		}},
		{120 * time.Second, upstream.TargetStatus{Since: start.Add(60 * time.Second)}, nil},
		{11 * time.Minute, upstream.TargetStatus{Up: true, Since: start.Add(11 * time.Minute)}, []notify.Message{
			{Kind: notify.BackendUp, Args: map[string]string{"backend": app.backend, "site": app.site, "lasted": "10m"}},
		}},
		{12 * time.Minute, upstream.TargetStatus{Up: true, Since: start.Add(11 * time.Minute)}, nil},
	} {
		got := o.look(map[backendKey]upstream.TargetStatus{app: step.is}, start.Add(step.after))
		if d := cmp.Diff(step.want, got); d != "" {
			t.Errorf("after %v: -want +got\n%s", step.after, d)
		}
	}
	o[app] = start
	if got := o.look(nil, start); len(got) > 0 || len(o) > 0 {
		t.Errorf("a backend that left the configuration: told %v, kept %v", got, o)
	}
}

// Every event of the guard that a person wants to know becomes a message.
func TestGuardEventsTold(t *testing.T) {
	d := testnet.NewDiscord(t)
	p := start(t, fmtSite(t, d))
	addr := netip.MustParseAddr("203.0.113.9")
	for _, e := range []guard.Event{
		{Kind: guard.EventServed, Addr: addr, Host: "a.example.org", Path: "/.env"},
		{Kind: guard.EventFlood, Addr: addr, Rule: guard.LimitConnections.String()},
		{Kind: guard.EventFlood, Addr: addr, Rule: guard.LimitRate.String()},
		{Kind: guard.EventFull, Ban: guard.Ban{Prefix: netip.PrefixFrom(addr, 32)}},
		{Kind: guard.EventBansOff, Addr: addr},
		{Kind: guard.EventBansOn},
		{Kind: guard.EventMode, Mode: guard.Off},
		{Kind: guard.EventMode, Mode: guard.Enforce},
		{Kind: guard.EventBan, Ban: guard.Ban{Prefix: netip.PrefixFrom(addr, 32)}},
	} {
		p.guardTold(e)
	}
	for _, want := range []string{"`/.env`", "connections", "203.0.113.9/32", "all clients seem to come from `203.0.113.9`", "clients can be told apart again", "guard.mode is `off` now", "guard.mode is `enforce` now"} {
		told(t, d, want)
	}
}

func TestAddressAndHostTold(t *testing.T) {
	d := testnet.NewDiscord(t)
	p := start(t, fmtSite(t, d))
	v4 := func(s string) ddns.Addresses { return ddns.Addresses{V4: netip.MustParseAddr(s)} }
	p.addressChanged(ddns.Addresses{}, v4("198.51.100.1")) // the first one ever is no change
	p.addressChanged(v4("198.51.100.1"), v4("198.51.100.2"))
	since := time.Now().Add(-time.Hour)
	p.dnsHostNoticed(ddns.Notice{Provider: "duckdns", Part: "nameservers", Sentence: "3 of 4 name servers do not answer", Since: since})
	p.dnsHostNoticed(ddns.Notice{Provider: "duckdns", Part: "nameservers", Since: since, Ended: since.Add(30 * time.Minute)})
	told(t, d, "IPv4`: from `198.51.100.1` to `198.51.100.2`")
	told(t, d, "`duckdns`: `3 of 4 name servers do not answer`")
	told(t, d, "answers again after `30m`")
}

func TestSums(t *testing.T) {
	got := sums(guard.Tally{
		Bans:     2,
		Signals:  []guard.Counted[guard.Signal]{{What: guard.Scanner, Count: 7}, {What: guard.UnknownServerName, Count: 3}},
		Families: []guard.Counted[guard.Family]{{What: guard.FamilyDotenv, Count: 7}},
		Networks: []guard.Counted[netip.Prefix]{{What: netip.MustParsePrefix("203.0.113.0/24"), Count: 10}},
	})
	want := notify.Counts{
		Bans: 2, Refused: 10,
		Families: []notify.Count{{Name: "unknown_server_name", N: 3}, {Name: string(guard.FamilyDotenv), N: 7}},
		Networks: []notify.Count{{Name: "203.0.113.0/24", N: 10}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func TestLasted(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 42 * time.Second: "42s", 59*time.Second + 900*time.Millisecond: "1m", 10 * time.Minute: "10m", 26*time.Hour + 31*time.Second: "26h1m", 2 * time.Hour: "2h0m",
	} {
		if got := lasted(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}
