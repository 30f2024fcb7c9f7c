package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var (
	start   = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	router1 = netip.MustParseAddr("192.168.1.1")
	router2 = netip.MustParseAddr("10.0.0.1")
)

func needOf(text string) need {
	return need{Port{"tcp", 443, 8443}, netip.MustParseAddrPort(text), router1}
}

func TestPlan(t *testing.T) {
	me, moved := needOf("192.168.1.9:8443"), needOf("192.168.1.20:8443")
	six := needOf("[2001:db8::9]:8443")
	elsewhere := me
	elsewhere.router = router2
	held := func(change ...func(*entry)) *entry {
		e := &entry{need: me}
		e.granted(start, grant{proto: PCP, lease: time.Hour})
		for _, f := range change {
			f(e)
		}
		return e
	}
	blocked := &entry{need: me}
	blocked.failed(start, refusal{state: Conflict})
	tests := []struct {
		name    string
		after   time.Duration
		needs   []need
		entries []*entry
		want    string
	}{
		{"nothing at all", 0, nil, nil, ""},
		{"wanted for the first time", 0, []need{me, six}, nil, "make 192.168.1.9:8443, make [2001:db8::9]:8443"},
		{"in its first half", 29 * time.Minute, []need{me}, []*entry{held()}, ""},
		{"half time", 30 * time.Minute, []need{me}, []*entry{held()}, "renew 192.168.1.9:8443"},
		{"over", time.Hour, []need{me}, []*entry{held()}, "make 192.168.1.9:8443"},
		{"no end", 1000 * time.Hour, []need{me}, []*entry{held(func(e *entry) { e.granted(start, grant{proto: UPnP}) })}, ""},
		{"the router restarted", time.Minute, []need{me}, []*entry{held(func(e *entry) { e.remake = true })}, "make 192.168.1.9:8443"},
		{"our address changed", time.Minute, []need{moved}, []*entry{held()}, "move 192.168.1.20:8443"},
		{"our address changed, made by hand", time.Minute, []need{moved}, []*entry{held(func(e *entry) { e.byHand = true })}, "make 192.168.1.20:8443"},
		{"another router", time.Minute, []need{elsewhere}, []*entry{held()}, "make 192.168.1.9:8443"},
		{"not wanted any more", time.Minute, nil, []*entry{held()}, "remove 192.168.1.9:8443"},
		{"not wanted any more, made by hand", time.Minute, nil, []*entry{held(func(e *entry) { e.byHand = true })}, "forget 192.168.1.9:8443"},
		{"never had, not wanted any more", time.Minute, nil, []*entry{blocked}, "forget 192.168.1.9:8443"},
		{"blocked, too soon", 14 * time.Second, []need{me}, []*entry{blocked}, ""},
		{"blocked", 15 * time.Second, []need{me}, []*entry{blocked}, "make 192.168.1.9:8443"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, s := range plan(start.Add(tt.after), tt.needs, tt.entries) {
				to := s.to.internal
				if s.do == removeIt || s.do == forgetIt {
					to = s.e.internal
				}
				got = append(got, fmt.Sprintf("%s %s", s.do, to))
			}
			if g := strings.Join(got, ", "); g != tt.want {
				t.Errorf("got %q, want %q", g, tt.want)
			}
		})
	}
}

// A day of a mapping at a router that answers, falls silent, and answers again,
// in virtual time: it is renewed at half time, held on to while it may still be
// there, and tried again for ever.
func TestLeaseStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		e := &entry{need: needOf("192.168.1.9:8443"), state: Wanted, since: begin}
		entries := []*entry{}
		silent := func() bool { at := time.Since(begin); return at > 6*time.Hour && at < 12*time.Hour }
		asked, lost, back := 0, time.Duration(0), time.Duration(0)
		for time.Since(begin) < 24*time.Hour {
			now := time.Now()
			for _, s := range plan(now, []need{e.need}, entries) {
				entries = []*entry{e}
				asked++
				was := e.state
				switch {
				case !silent():
					e.granted(now, grant{proto: PCP, lease: time.Hour})
				case s.do == renewIt:
					e.notRenewed(now, errUnanswered)
				default:
					e.failed(now, refusal{state: Failed, err: errUnanswered})
				}
				if was == Mapped && e.state != Mapped {
					lost = now.Sub(begin)
				}
				if was == Failed && e.state == Mapped {
					back = now.Sub(begin)
				}
			}
			time.Sleep(max(time.Until(wakeAt(entries, now.Add(time.Minute))), time.Second)) // virtual
		}
		if lost < 6*time.Hour+30*time.Minute || lost > 7*time.Hour+time.Minute {
			t.Errorf("given up after %s, want when the lease granted before 6h ran out", lost)
		}
		if back < 12*time.Hour || back > 12*time.Hour+lastRetry+time.Minute {
			t.Errorf("back after %s, want within %s of 12h", back, lastRetry)
		}
		if asked < 60 || asked > 120 {
			t.Errorf("asked %d times in a day, want about 36 at half time and 40 while the router was silent", asked)
		}
	})
}

func TestEpochs(t *testing.T) {
	tests := []struct {
		name          string
		before, after uint32
		elapsed       time.Duration
		want          bool
	}{
		{"as it should be", 1000, 1060, time.Minute, false},
		{"a second back", 1000, 999, 0, false},
		{"back", 1000, 990, time.Minute, true},
		{"started over", 100000, 3, time.Hour, true},
		{"started over, a young router", 30, 31, time.Minute, true},
		{"its clock is slow by 5 %", 1000, 1000 + 3420, time.Hour, false},
		{"its clock is slow by half", 1000, 2800, time.Hour, true},
		{"its clock ran ahead", 1000, 8200, time.Hour, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := epoch{tt.before, start}
			if got := before.restarted(epoch{tt.after, start.Add(tt.elapsed)}); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	if (epoch{}).restarted(epoch{5, start}) {
		t.Error("the first look is a restart")
	}
}

func TestKinds(t *testing.T) {
	for addr, want := range map[string]Kind{
		"8.8.8.8": Public, "203.0.113.7": Public, "::ffff:8.8.8.8": Public,
		"100.64.0.1": CarrierNAT, "100.127.255.254": CarrierNAT, "192.0.0.2": CarrierNAT, "100.128.0.1": Public,
		"192.168.1.2": DoubleNAT, "10.1.1.1": DoubleNAT, "172.31.0.1": DoubleNAT, "172.32.0.1": Public,
		"0.0.0.0": Unusable, "0.1.2.3": Unusable, "127.0.0.1": Unusable, "169.254.1.1": Unusable, "224.0.0.1": Unusable, "255.255.255.255": Unusable, "198.18.0.1": Unusable, "2001:db8::1": Unusable,
	} {
		if got := KindOf(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: got %s, want %s", addr, got, want)
		}
	}
}

func TestActions(t *testing.T) {
	m := Mapping{Port: Port{"tcp", 443, 8443}, Addr: netip.MustParseAddr("192.168.1.9")}
	six := Mapping{Port: Port{"tcp", 443, 8443}, Addr: netip.MustParseAddr("2001:db8::9")}
	tests := []struct {
		m      Mapping
		state  State
		holder *Holder
		want   string
	}{
		{m, Mapped, nil, ""},
		{m, Wanted, nil, ""},
		{m, Conflict, &Holder{"192.168.1.7", 443, "camera"}, "remove the mapping of 443/tcp to 192.168.1.7:443 (camera) in the router's settings, or turn off UPnP in that device"},
		{m, Conflict, nil, "look in the router's settings who has 443/tcp: another device's forwarding, or the router's own remote access"},
		{m, Refused, nil, "allow this machine to open ports (also below 1024) in the router's settings, or forward 443/tcp to 192.168.1.9 port 8443 in the router's settings by hand"},
		{six, Failed, nil, "turn on UPnP, NAT-PMP or PCP in the router's settings, or allow 8443/tcp to 2001:db8::9 in the router's IPv6 firewall by hand"},
	}
	for _, tt := range tests {
		tt.m.State, tt.m.Holder = tt.state, tt.holder
		if got := tt.m.Action(); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.state, got, tt.want)
		}
	}
}

func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want State
	}{
		{&pcpError{code: pcpNotAuthorized}, Refused},
		{&pcpError{code: 8}, Failed},
		{&pmpError{pmpNotAuthorized}, Refused},
		{&pmpError{4}, Failed},
		{&upnpError{"AddPortMapping", upnpNotAuthorized, ""}, Refused},
		{&upnpError{"AddPortMapping", upnpOtherMechanism, ""}, Conflict},
		{&upnpError{"AddPortMapping", 501, ""}, Failed},
		{&keptError{}, Refused},
		{errors.New("no answer"), Failed},
	} {
		if got := judge(tt.err); got.state != tt.want {
			t.Errorf("%v: got %s, want %s", tt.err, got.state, tt.want)
		}
	}
	if r := judge(&pcpError{code: 8, lifetime: 90}); r.wait != 90*time.Second {
		t.Errorf("got %s, want the 90s that the router asked for", r.wait)
	}
}
