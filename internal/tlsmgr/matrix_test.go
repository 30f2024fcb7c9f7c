package tlsmgr

import (
	"context"
	"crypto/x509"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/internal/dnscheck"
	"postern/internal/testnet"

	"github.com/mholt/acmez/v3/acme"
)

var update = flag.Bool("update", false, "write docs/outages.md")

// lab is a house whose DNS and authority can be broken, with the real check.
type lab struct {
	*house
	t    *testing.T
	dns  *testnet.DNS
	cfg  Config
	m    *Manager
	door *door
	stop func()

	before *x509.Certificate // what is held when Run begins
	opened func()            // nil: nothing to do between New and Run

	synced bool // guarded by mu
	mu     sync.Mutex
}

// A try at the DNS may take tryFor: long where many labs share the machine.
func newLab(t *testing.T, tryFor time.Duration, profiles map[string]time.Duration) *lab {
	t.Helper()
	d := testnet.NewDNS(t, "example")
	d.AnswerAll("127.0.0.1")
	l := &lab{t: t, dns: d, synced: true}
	l.house = newHouse(t, testnet.CAOptions{CheckCAA: true, CAATimeout: 2 * tryFor, DNS: d, Profiles: profiles})
	l.cfg = l.config(t.TempDir(), l.name)
	_, port, _ := net.SplitHostPort(d.Addr)
	l.cfg.Check = dnscheck.New(dnscheck.Config{
		Resolvers: []string{d.Addr}, AuthoritativePort: must(strconv.Atoi(port)), Timeout: tryFor,
		Own: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.1")} },
	}).Check
	l.cfg.CheckEvery = 300 * time.Millisecond
	l.cfg.Challenge = challengeHTTP
	l.cfg.Clock = func() (bool, time.Duration) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.synced, time.Minute
	}
	return l
}

// open starts a Manager on what is on disk.
func (l *lab) open(due bool) {
	l.t.Helper()
	l.m = mustNew(l.t, l.cfg)
	if first := l.m.eng.find(l.name); due && first != nil {
		l.m.ledger.update(l.name, func(r *record) { r.Tries, r.LastAttempt = nil, time.Time{} }) // months ago
		l.m.drv.renewal = func(notBefore, notAfter, chosen time.Time) time.Time {
			if notBefore.Equal(first.NotBefore) {
				return notBefore // long ago
			}
			return renewalTime(notBefore, notAfter, chosen)
		}
	}
	if l.opened != nil {
		l.opened()
	}
	l.before = l.m.eng.find(l.name)
	l.house.m.Store(l.m)
	if l.door == nil {
		l.door = openDoorOn(l.t, l.house.tls, l.m.TLSConfig())
	} else {
		l.door = openDoor(l.t, l.m.TLSConfig())
	}
	l.stop = run(l.t, l.m)
}

func (l *lab) status() CertStatus {
	for _, s := range l.m.Status() {
		if s.Name == l.name {
			return s
		}
	}
	return CertStatus{}
}

// attempts are those the budget knows of.
func (l *lab) attempts() int {
	n := 0
	for _, tries := range l.m.ledger.get(l.name).Tries {
		n += len(tries)
	}
	return n
}

// txtSolver answers dns-01 at the lab's own DNS.
type txtSolver struct{ l *lab }

func (s txtSolver) Present(_ context.Context, c acme.Challenge) error {
	s.l.dns.Add(s.l.t, fmt.Sprintf("%s. 1 IN TXT %q", c.DNS01TXTRecordName(), c.DNS01KeyAuthorization()))
	return nil
}

func (s txtSolver) CleanUp(_ context.Context, c acme.Challenge) error {
	s.l.dns.Remove(c.DNS01TXTRecordName(), "TXT")
	return nil
}

// fault is one row of docs/outages.md.
type fault struct {
	name    string
	begin   func(l *lab)
	end     func(l *lab)
	says    string // part of the sentence; "": nothing is wrong for long
	renewal bool   // makes sense for renewals alone
}

func caaFault(f testnet.Fault) func(*lab) {
	return func(l *lab) { l.dns.SetFault(l.name, "CAA", f) }
}

func front(f testnet.Front) func(*lab) { return func(l *lab) { l.ca.SetFront(f) } }

func noFront(l *lab) { l.ca.SetFront(nil) }

func faults() []fault {
	healed := caaFault(testnet.NoFault)
	soon := time.Now().Add(3 * time.Hour).UTC().Format(time.DateTime)
	return []fault{
		{name: "CAA timeout", begin: caaFault(testnet.Drop), end: healed, says: "CAA"},
		{name: "CAA SERVFAIL", begin: caaFault(testnet.ServFail), end: healed, says: "CAA"},
		{name: "TXT SERVFAIL (dns-01)",
			begin: func(l *lab) { l.dns.SetFault("_acme-challenge."+l.name, "TXT", testnet.ServFail) },
			end:   func(l *lab) { l.dns.SetFault("_acme-challenge."+l.name, "TXT", testnet.NoFault) }, says: "TXT"},
		{name: "A wrong",
			begin: func(l *lab) { l.dns.Add(l.t, l.name+". 1 IN A 203.0.113.7") },
			end: func(l *lab) {
				l.dns.Remove(l.name, "A")
				l.dns.Add(l.t, l.name+". 1 IN A 127.0.0.1")
			}, says: "203.0.113.7"},
		{name: "AAAA stale",
			begin: func(l *lab) { l.dns.Add(l.t, l.name+". 1 IN A 127.0.0.1", l.name+". 1 IN AAAA 2001:db8::7") },
			end:   func(l *lab) { l.dns.Remove(l.name, "AAAA") }, says: "2001:db8::7"},
		{name: "NS partly dead",
			begin: func(l *lab) {
				l.dns.Add(l.t, "example. 1 IN NS ns1.example.", "example. 1 IN NS ns2.example.", "ns2.example. 1 IN A 127.0.0.99")
			},
			end: func(*lab) {}, says: ""},
		{name: "CA hang", begin: func(l *lab) {
			release := make(chan struct{})
			l.t.Cleanup(func() { close(release) })
			l.ca.SetFront(testnet.Hang(release))
		}, end: noFront, says: "cannot be reached"},
		{name: "429", begin: front(testnet.RefuseOrders(429, "rateLimited", "too many new orders (300) from this account in the last 3h0m0s, retry after "+soon+" UTC: see …", "", nil)), end: noFront, says: "limit"},
		{name: "500", begin: front(testnet.RefuseOrders(500, "serverInternal", "Error creating new order", "", nil)), end: noFront, says: "trouble of its own"},
		{name: "503", begin: front(testnet.Answer(503, "7200")), end: noFront, says: "overloaded or in maintenance"},
		{name: "nonce loss", begin: front(testnet.LoseNonces(3)), end: noFront},
		{name: "ARI alreadyReplaced", renewal: true, end: noFront,
			begin: front(testnet.RefuseOrders(409, "alreadyReplaced", "certificate has already been replaced by another order", "", func(o string) bool { return strings.Contains(o, `"replaces"`) }))},
		{name: "expired certificate", renewal: true, begin: func(l *lab) { l.ca.SetDown(true) }, end: func(l *lab) { l.ca.SetDown(false) }, says: "cannot be reached"},
		{name: "account deleted", begin: func(l *lab) {
			a := l.m.eng.now.Load().list[0].certifier.(*authority)
			l.ca.SetFront(testnet.ForgetAccount(a.accountURI(l.t.Context())))
		}, end: noFront},
		{name: "storage file missing", renewal: true, begin: func(l *lab) {
			found := must(filepath.Glob(filepath.Join(l.cfg.Dir, "certificates", "*", l.name, "*.key")))
			if len(found) != 1 || os.Remove(found[0]) != nil {
				l.t.Errorf("key files %q", found)
			}
		}, end: func(*lab) {}},
		{name: "storage read-only", begin: func(l *lab) {
			l.opened = func() { l.m.ledger.path = filepath.Join(l.cfg.Dir, "not there", "attempts.json") } // root may write everywhere else
		}, end: func(l *lab) {
			if err := os.Mkdir(filepath.Join(l.cfg.Dir, "not there"), 0o700); err != nil {
				l.t.Error(err)
			}
		}, says: "cannot be written"},
		{name: "clock unsynced",
			begin: func(l *lab) { l.mu.Lock(); defer l.mu.Unlock(); l.synced = false },
			end:   func(l *lab) { l.mu.Lock(); defer l.mu.Unlock(); l.synced = true }, says: "clock"},
	}
}

// outageRow is what docs/outages.md says about a fault.
type outageRow struct{ served, attempts, says, then string }

// TestOutages runs every fault against the real check and a real authority,
// and holds docs/outages.md to what happens.
func TestOutages(t *testing.T) {
	t.Parallel()
	all := faults()
	results := make([][2]outageRow, len(all))
	slots := make(chan struct{}, 6) // the rows wait more than they work
	var wg sync.WaitGroup
	for i, f := range all {
		for k, kind := range []string{"first issue", "renewal"} {
			if f.renewal && k == 0 {
				continue
			}
			wg.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				t.Run(f.name+"/"+kind, func(t *testing.T) { results[i][k] = f.run(t, k == 1) })
			})
		}
	}
	wg.Wait()
	var page strings.Builder
	page.WriteString(outagesHead)
	for i, f := range all {
		for k, kind := range []string{"first issue", "renewal"} {
			if o := results[i][k]; o.served != "" {
				fmt.Fprintf(&page, "| %s | %s | %s | %s | %s | %s |\n", f.name, kind, o.served, o.attempts, o.says, o.then)
			}
		}
	}
	t.Log("\n" + page.String())
	const file = "../../docs/outages.md"
	if t.Failed() {
		return
	}
	if *update {
		if err := os.WriteFile(file, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != page.String() {
		t.Errorf("%s is not what happens (%v)\n\tway out: go test ./internal/tlsmgr -run TestOutages -update", file, err)
	}
}

const outagesHead = `# Outages

<!-- Made by "go test ./internal/tlsmgr -run TestOutages -update" from what
happened when each of these was tried. Do not edit. -->

Everything that can stand between a name and its certificate, tried against a
real ACME authority (Pebble, with the CAA step of Let's Encrypt's) and a DNS
server that fails as told: for a name that has no certificate yet, and for one
whose certificate is due.

*Handshakes* is what a client meets meanwhile: the certificate held, or a
refusal within milliseconds. *Attempts* is how many of the hour's four were
spent until postern knew; it never spends more than four. *Says* is the
sentence in ` + "`proxy health`" + `, the log and the notice.

| fault | case | handshakes | attempts | says | when it ends |
|---|---|---|---|---|---|
`

// run tries one fault.
func (f fault) run(t *testing.T, renewal bool) outageRow {
	var profiles map[string]time.Duration
	if f.name == "expired certificate" {
		profiles = map[string]time.Duration{"classic": 4 * time.Second}
	}
	l := newLab(t, 800*time.Millisecond, profiles)
	if strings.Contains(f.name, "dns-01") {
		l.cfg.Challenge, l.cfg.DNS01 = challengeDNS, txtSolver{l}
	}
	l.prepare(f, renewal)
	before := l.before
	o := outageRow{says: "–", attempts: "0"}
	if f.says != "" {
		eventually(t, f.name+": the sentence", func() bool { return strings.Contains(l.status().Sentence, f.says) })
		o.says, o.attempts = l.plain(l.status().Sentence), strconv.Itoa(l.attempts())
	}
	if f.name == "expired certificate" {
		eventually(t, "its end", func() bool { return l.status().State == StateExpired })
	}
	o.served = l.shake(before != nil)
	if f.says == "" {
		o.then = l.renewed(before, "renewed", "issued")
		o.attempts = strconv.Itoa(l.attempts())
		return o
	}
	if now := l.m.eng.find(l.name); now != before {
		t.Error("the fault had no effect")
	}
	f.end(l)
	if f.name == "429" || f.name == "503" { // what the authority asked for is obeyed: nobody waits hours here
		if st := l.status(); st.Waiting != string(whyLimited) || time.Until(st.NextAttempt) < time.Hour {
			t.Errorf("status %+v, want to wait for hours", st)
		}
		o.then = "after the time the authority named"
		return o
	}
	if err := l.m.Apply(l.cfg); err != nil { // a reload does not wait for back-off
		t.Fatal(err)
	}
	o.then = l.renewed(before, "renewed", "issued")
	if n := l.attempts(); n > 4 {
		t.Errorf("%d attempts, want at most 4", n)
	}
	return o
}

// prepare brings the house to where the fault strikes.
func (l *lab) prepare(f fault, renewal bool) {
	name := l.name
	switch {
	case renewal:
		l.open(false)
		served(l.t, l.door, name, l.ca.IssuerRoots)
	case f.name == "account deleted": // there must be one
		l.cfg.Names = []string{"other-" + name}
		l.open(false)
		served(l.t, l.door, "other-"+name, l.ca.IssuerRoots)
		l.cfg.Names = []string{name}
	default:
		f.begin(l)
		l.open(false)
		return
	}
	l.before = l.m.eng.find(name)
	f.begin(l)
	if f.name == "storage file missing" { // it goes away while we run
		l.m.ledger.update(name, func(r *record) { r.Tries, r.LastAttempt = nil, time.Time{} })
		l.m.kick()
		return
	}
	l.stop()
	l.m.Close()
	l.open(true)
}

// shake makes a handshake and says what became of it.
func (l *lab) shake(held bool) string {
	began := time.Now()
	_, err := l.door.dial(l.name, nil)
	if took := time.Since(began); took > 3*time.Second {
		l.t.Errorf("the handshake took %v", took)
	}
	if (err == nil) != held {
		l.t.Errorf("handshake: %v, certificate held %v", err, held)
	}
	if held {
		return "served"
	}
	return "refused at once"
}

// renewed waits for another certificate than before.
func (l *lab) renewed(before *x509.Certificate, renewal, first string) string {
	l.t.Helper()
	l.t.Cleanup(func() {
		if l.t.Failed() {
			l.t.Logf("%+v", l.status())
		}
	})
	eventually(l.t, "another certificate", func() bool {
		now := l.m.eng.find(l.name)
		return now != nil && now != before
	})
	if _, err := l.door.dial(l.name, nil); err != nil {
		l.t.Error(err)
	}
	if l.status().Sentence != "" && l.status().Verdict == "green" {
		l.t.Errorf("all is well and it says %q", l.status().Sentence)
	}
	if before == nil {
		return first
	}
	return renewal
}

var (
	labName = regexp.MustCompile(`home\d+\.test\.example`)
	labAddr = regexp.MustCompile(`127\.0\.0\.\d+(:\d+)?`)
)

// plain takes out of a sentence what differs from run to run.
func (l *lab) plain(s string) string {
	s = labName.ReplaceAllString(s, "home.test.example")
	return strings.ReplaceAll(labAddr.ReplaceAllString(s, "192.0.2.1"), "|", `\|`)
}
