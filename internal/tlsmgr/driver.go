package tlsmgr

import (
	"context"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"postern/internal/dnscheck"

	"github.com/mholt/acmez/v3/acme"
	"golang.org/x/sync/errgroup"
)

// The driver looks at every name, asks the rule (plan.go) what to do, and does
// it: one goroutine for each name that is being worked on, all of which drive
// waits for. What it learns goes into the ledger before it acts on it.

const (
	attemptTimeout = 3 * time.Minute
	askTimeoutARI  = 20 * time.Second
	attemptsAtOnce = 4
	checksAtOnce   = 8
	saveEvery      = 6 * time.Hour  // so that the last time seen is not far off
	forbiddenFor   = 24 * time.Hour // an authority that will not certify a name is asked again then
	askAgain       = 6 * time.Hour  // for the renewal time, unless the authority says otherwise
)

// driver is the Manager's state about what is going on now; what must survive
// is in the ledger.
type driver struct {
	mu       sync.Mutex
	busy     map[string]deed             // what is being done; guarded by mu
	renewals map[string]Renewal          // asked for by hand, the last of each name; guarded by mu
	checked  map[string]time.Time        // last look at the DNS in this process; guarded by mu
	verdicts map[string]dnscheck.Verdict // of that look; guarded by mu
	saved    time.Time                   // guarded by mu

	attempts chan struct{} // slots
	checks   chan struct{}

	// Tests replace these before anything runs.
	renewal func(notBefore, notAfter, chosen time.Time) time.Time
	chance  func() float64 // from 0 to 1
}

func newDriver() *driver {
	return &driver{
		busy: map[string]deed{}, renewals: map[string]Renewal{}, checked: map[string]time.Time{}, verdicts: map[string]dnscheck.Verdict{},
		attempts: make(chan struct{}, attemptsAtOnce), checks: make(chan struct{}, checksAtOnce),
		renewal: renewalTime, chance: rand.Float64,
	}
}

// begin marks name as being worked on; false: it is already.
func (d *driver) begin(name string, do deed) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, busy := d.busy[name]; busy {
		return false
	}
	d.busy[name] = do
	return true
}

// end takes the mark away and, at the same moment, ends the Renewal of name
// that waited for out; nil: it waits on.
func (d *driver) end(name string, out *ending) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.busy, name)
	if out != nil {
		d.answerLocked(name, *out)
	}
}

func (d *driver) working(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, busy := d.busy[name]
	return busy
}

func (d *driver) checkedAt(name string) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.checked[name]
}

func (d *driver) note(name string, v dnscheck.Verdict, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.checked[name], d.verdicts[name] = at, v
}

// keep forgets names nobody wants.
func (d *driver) keep(wanted func(string) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for n := range d.checked {
		if !wanted(n) {
			delete(d.checked, n)
			delete(d.verdicts, n)
		}
	}
	for n := range d.renewals {
		if !wanted(n) {
			delete(d.renewals, n)
		}
	}
}

// kick makes the driver look again.
func (m *Manager) kick() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// drive works until ctx ends, and waits for what it began.
func (m *Manager) drive(ctx context.Context) error {
	var work errgroup.Group
	defer func() {
		_ = work.Wait() // workers report through the ledger
		if err := m.ledger.save(time.Now()); err != nil {
			m.log.Debug("state not written at the end", "err", err)
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case <-timer.C:
		}
		_, next := m.pass(ctx, &work)
		timer.Reset(max(time.Until(next), 10*time.Millisecond))
	}
}

// pass looks at every name once, begins what is to be done, and returns how
// much that was and when to look again.
func (m *Manager) pass(ctx context.Context, work *errgroup.Group) (begun int, next time.Time) {
	now := time.Now()
	next = now.Add(lookCalm)
	if m.settings.Load().publicAddrs != nil {
		next = now.Add(lookEvery)
	}
	m.refreshAddrs()
	m.tidy(now)
	for _, name := range m.targets() {
		if m.drv.working(name) {
			continue
		}
		s := m.situation(name, now)
		act := decide(&s, now)
		m.judge(name, &s, act, now)
		act = m.byHand(name, s, act, now)
		if act.do == doWait {
			if act.until.Before(next) {
				next = act.until
			}
			continue
		}
		if !m.drv.begin(name, act.do) {
			continue
		}
		begun++
		work.Go(func() error {
			var out *ending
			defer m.kick()
			defer func() { m.drv.end(name, out) }()
			out = m.do(ctx, name, act)
			return nil
		})
	}
	return begun, next
}

// do carries an action out. It returns what an attempt came to, nil when there
// was none.
func (m *Manager) do(ctx context.Context, name string, act action) *ending {
	switch act.do {
	case doCheck:
		m.check(ctx, name)
	case doAsk:
		m.askRenewal(ctx, name)
	case doAttempt:
		if !take(ctx, m.drv.attempts) {
			return nil
		}
		defer func() { <-m.drv.attempts }()
		began, leaf := time.Now(), m.eng.find(name)
		m.attempt(ctx, name, act)
		return m.outcome(name, leaf, began)
	}
	return nil
}

func take(ctx context.Context, slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// targets are the names to look after, sorted: those of sites, our addresses,
// and what was obtained on demand.
func (m *Manager) targets() []string {
	t := m.table.Load()
	out := slices.Clone(t.managed)
	for _, a := range m.addrs.Load().list {
		out = append(out, a.text)
	}
	for _, n := range m.eng.names() {
		if t.onDemandName(n) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// situation gathers what the rule looks at.
func (m *Manager) situation(name string, now time.Time) situation {
	set := m.settings.Load()
	s := situation{
		held: m.eng.holds(name), gated: m.gated(name), checkedAt: m.drv.checkedAt(name),
		clock: m.clock(now), storage: m.ledger.writable(),
		rec: m.ledger.get(name), counted: m.eng.counts(), perHour: set.perHour, every: set.check,
	}
	s.routes = m.routes(name, s.rec)
	leaf := m.eng.find(name)
	if !s.held || leaf == nil {
		return s
	}
	s.lost = m.eng.lost(name)
	var chosen time.Time
	if a := s.rec.ARI; a != nil && a.Serial == serialOf(leaf) {
		chosen, s.askAt = a.At, a.AskAt
	} else if s.counted {
		s.askAt = now
	}
	s.renewAt = m.drv.renewal(leaf.NotBefore, leaf.NotAfter, chosen)
	return s
}

// gated reports whether the DNS decides about attempts for name. An address
// needs none (RFC 8738), and neither does our own authority.
func (m *Manager) gated(name string) bool {
	return m.settings.Load().ask != nil && m.eng.counts() && !isAddr(name)
}

// routes are the ways to a certificate for name, authorities in the order of
// the configuration; the challenge that worked last comes first.
func (m *Manager) routes(name string, rec record) []route {
	on := m.settings.Load().challenges
	if i := slices.Index(on, rec.Prefer); i > 0 {
		on = slices.Insert(slices.Delete(slices.Clone(on), i, i+1), 0, rec.Prefer)
	}
	var out []route
	for _, i := range m.eng.now.Load().list {
		key := i.IssuerKey()
		h := m.ledger.health(key)
		ids := i.identities()
		no := len(ids) > 0 && !slices.ContainsFunc(ids, func(id string) bool { return !slices.Contains(rec.Forbids, id) })
		for _, c := range i.challenges(name, on) {
			out = append(out, route{account: key, challenge: c, until: h.Until, why: h.Why, forbidden: no})
		}
	}
	return out
}

// check asks the DNS about name and takes the verdict in.
func (m *Manager) check(ctx context.Context, name string) {
	if !take(ctx, m.drv.checks) {
		return
	}
	defer func() { <-m.drv.checks }()
	v := m.settings.Load().ask(ctx, m.question(ctx, name))
	if ctx.Err() != nil {
		return // it was cut off, and says nothing
	}
	now := time.Now()
	m.metrics.checked(v.Colour)
	m.drv.note(name, v, now)
	was := m.ledger.get(name)
	is := m.ledger.update(name, func(r *record) { r.see(v, now) })
	if was.Colour != is.Colour || was.Since.IsZero() {
		m.log.Info("dns check", "name", name, "colour", is.Colour.String(), "cause", is.Cause, "sentence", is.Sentence)
		m.saveQuietly(now)
	}
}

// question is what the check of name is about.
func (m *Manager) question(ctx context.Context, name string) dnscheck.Question {
	q := dnscheck.Question{Name: name}
	if rest, wild := strings.CutPrefix(name, "*."); wild {
		q.Name, q.Wildcard = rest, true
	}
	list := m.eng.now.Load().list
	for _, i := range list {
		ids := i.identities()
		if len(ids) == 0 {
			q.CAs = nil // not known yet: then CAA has to answer, whatever it says
			break
		}
		q.CAs = append(q.CAs, ids...)
	}
	if routes := m.routes(name, m.ledger.get(name)); len(routes) > 0 {
		q.Challenge = routes[m.ledger.get(name).Turn%len(routes)].challenge
	}
	if len(list) == 1 {
		q.AccountURI = list[0].accountURI(ctx)
	}
	return q
}

// see takes a verdict in. What gets worse is believed at once, a recovery from
// red when it is seen twice.
func (r *record) see(v dnscheck.Verdict, now time.Time) {
	if r.Colour == dnscheck.Red && v.Colour != dnscheck.Red && !r.Since.IsZero() {
		if r.Doubt++; r.Doubt < 2 {
			return
		}
		r.Next = time.Time{} // the attempt follows at once
	}
	if r.Since.IsZero() || r.Colour != v.Colour {
		r.Since = now
	}
	r.Doubt, r.Colour, r.Forbids = 0, v.Colour, v.Forbids
	r.Cause, r.Sentence = v.Cause.String(), v.Sentence
}

// askRenewal asks the authority that issued name's certificate when to renew
// it (RFC 9773 section 4). An authority that does not answer changes nothing.
func (m *Manager) askRenewal(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, askTimeoutARI)
	defer cancel()
	leaf, from := m.eng.source(name)
	if leaf == nil {
		return
	}
	now := time.Now()
	info := renewalInfo{Serial: serialOf(leaf), AskAt: now.Add(askAgain)}
	got, err := from.renewalInfo(ctx, leaf)
	if errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	was := m.ledger.get(name).ARI
	switch {
	case err != nil:
		m.log.Debug("renewal time not known", "name", name, "authority", from.label(), "err", err)
		if was != nil && was.Serial == info.Serial {
			info.At, info.Start, info.End = was.At, was.Start, was.End
		}
	default:
		info.learn(got, now)
		if was != nil && was.Serial == info.Serial && was.Start.Equal(info.Start) && was.End.Equal(info.End) {
			info.At = was.At // one time per window
		} else if was != nil && was.Serial == info.Serial {
			m.log.Info("the authority moved the renewal", "name", name, "from", was.At, "to", info.At, "explanation", got.ExplanationURL)
		}
	}
	m.ledger.update(name, func(r *record) { r.ARI = &info })
	m.saveQuietly(now)
}

// learn takes in what the authority said.
func (i *renewalInfo) learn(got acme.RenewalInfo, now time.Time) {
	i.At, i.Start, i.End, i.AskAt = got.SelectedTime, got.SuggestedWindow.Start, got.SuggestedWindow.End, now.Add(askAgain)
	if got.RetryAfter != nil { // RFC 9773 section 4.3.2: from a minute to a day
		i.AskAt = now.Add(min(max(got.RetryAfter.Sub(now), time.Minute), 24*time.Hour))
	}
}

// source returns the certificate served for name and the authority in use that
// issued it, or nil.
func (e *engine) source(name string) (*x509.Certificate, *issuer) {
	h := (*e.held.Load())[name]
	if h == nil {
		return nil, nil
	}
	if i := e.byKey(h.from); i != nil {
		return h.cert.Leaf, i
	}
	return nil, nil
}

func serialOf(leaf *x509.Certificate) string { return leaf.SerialNumber.Text(16) }

// saveQuietly writes the ledger; it tells a failure by itself, and the next
// attempt waits for a write that works.
func (m *Manager) saveQuietly(now time.Time) {
	if err := m.ledger.save(now); err != nil {
		m.log.Debug("state not written", "err", err)
	}
}

// tidy forgets what nobody wants and keeps the last time seen fresh.
func (m *Manager) tidy(now time.Time) {
	m.drv.mu.Lock()
	due := now.Sub(m.drv.saved) >= saveEvery || now.Before(m.drv.saved)
	if due {
		m.drv.saved = now
	}
	m.drv.mu.Unlock()
	if !due {
		return
	}
	wanted := func(n string) bool { return m.wants(n) && !m.table.Load().onDemandName(n) || m.eng.holds(n) }
	m.ledger.keep(wanted, now)
	m.drv.keep(wanted)
	if m.clock(now) {
		m.saveQuietly(now)
	}
}
