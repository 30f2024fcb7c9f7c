package ddns

import (
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestWeekOfFlapping: a DNS host whose API and name servers go and come, each
// in its own rhythm, under an address that changes every night, beside a host
// that works. There are two messages for each outage and none besides, nobody
// writes what stands already, the other host never waits, and in the end
// everything is right. That no goroutine is left is what the bubble checks.
func TestWeekOfFlapping(t *testing.T) {
	for seed := range uint64(2) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, []Kind{Router, DNSEcho, HTTPSEcho}, "duckdns", "desec")
			dir := t.TempDir()
			r.cfg.File, r.cfg.History = filepath.Join(dir, "addresses.json"), filepath.Join(dir, "dns-hosts.json")
			r.link(LocalAddr{Addr: six1, Default: true})
			r.start()
			r.pass(time.Minute)
			rnd := rand.New(rand.NewPCG(seed, 5))
			duck, desec := r.hosts["duckdns"], r.hosts["desec"]
			end := time.Now().Add(7 * 24 * time.Hour)
			nextAPI, nextServers, nextAddr := time.Now().Add(time.Hour), time.Now().Add(2*time.Hour), time.Now().Add(24*time.Hour)
			apiDown, serversDown := false, false
			outages, addresses := map[string]int{}, 1
			addr := home1
			// long enough to be noticed: the pace is 5 min
			some := func() time.Duration { return 20*time.Minute + time.Duration(rnd.Int64N(int64(5*time.Hour))) }
			for time.Now().Before(end) {
				r.pass(time.Minute)
				now := time.Now()
				if now.After(nextAPI) {
					apiDown, nextAPI = !apiDown, now.Add(some())
					duck.set(func(f *fakeHost) {
						if f.api = nil; apiDown {
							f.api = unreachable()
							outages[partAPI]++
						}
					})
				}
				if now.After(nextServers) {
					serversDown, nextServers = !serversDown, now.Add(some())
					duck.set(func(f *fakeHost) { f.servers = serversDown })
					if serversDown {
						outages[partServers]++
					}
				}
				if now.After(nextAddr) {
					nextAddr = now.Add(24 * time.Hour)
					addr = netip.AddrFrom4([4]byte{198, 51, 100, byte(addresses)})
					addresses++
					r.say(addr, "router", "dns", "https")
					r.pass(2 * time.Minute)
					r.wants("the host that works", desec.has("desec.example").V4, addr)
				}
			}
			duck.set(func(f *fakeHost) { f.api, f.servers = nil, false })
			r.pass(time.Hour)

			for name, f := range r.hosts {
				r.wants(name+" in the end", f.has(name+".example"), Addresses{addr, six1})
				r.wants(name+": writes that changed nothing", f.idle, 0)
				if f.writes > addresses {
					t.Errorf("%s: %d writes for %d addresses", name, f.writes, addresses)
				}
			}
			begun, ended := map[string]int{}, map[string]int{}
			for _, n := range r.told() {
				r.wants("who is in trouble", n.Provider, "duckdns")
				if n.Ended.IsZero() {
					begun[n.Part]++
					continue
				}
				ended[n.Part]++
				if d := n.Ended.Sub(n.Since); d < 10*time.Minute || d > 6*time.Hour {
					t.Errorf("an outage of %v: %s", d, n.Sentence)
				}
			}
			for _, part := range []string{partAPI, partServers} {
				if begun[part] != outages[part] || ended[part] != outages[part] {
					t.Errorf("seed %d: %s: %d messages of a beginning and %d of an end for %d outages", seed, part, begun[part], ended[part], outages[part])
				}
				r.wants("gauge of "+part, testutil.ToFloat64(r.m.metrics.provider.WithLabelValues("duckdns", part)), 1.0)
			}
			r.wants("other messages", len(r.told()), 2*(outages[partAPI]+outages[partServers]))
			t.Logf("seed %d: %d outages of the API, %d of the name servers, %d addresses, %d calls, %d writes at the flapping host", seed, outages[partAPI], outages[partServers], addresses, duck.calls, duck.writes)
			r.stop()
		})
	}
}

// TestMetricNames: what is exposed is as Prometheus wants it.
func TestMetricNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []Kind{DNSEcho, HTTPSEcho}, "duckdns")
		reg := prometheus.NewPedanticRegistry()
		r.cfg.Registerer = reg
		r.start()
		r.pass(10 * time.Minute)
		problems, err := testutil.GatherAndLint(reg)
		if err != nil || len(problems) > 0 {
			t.Errorf("%v, %+v", err, problems)
		}
		if n, err := testutil.GatherAndCount(reg, "postern_dns_provider_up"); n != 2 || err != nil {
			t.Errorf("%d series of postern_dns_provider_up, want the API and the name servers; %v", n, err)
		}
		r.stop()
	})
}
