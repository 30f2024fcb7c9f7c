// Package publish puts the house's endpoint where its callers find it when
// DNS does not answer: an AWS SSM parameter, an S3 object, a Route 53 record
// or a webhook.
//
// Each target is on its own: what one does, or does not answer, never holds
// another up, nor anything else in the process.
package publish

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// Facts is what is known about the house now.
type Facts struct {
	Names       []string   // host names that callers may use, the preferred one first
	IPv4, IPv6  netip.Addr // the public addresses; the zero Addr where there is none
	Port        int        // of HTTPS, as seen from outside
	Fingerprint string     // of the served certificate's key; see Fingerprint. "" when none is served
}

// Document is what callers read. Its JSON is the contract with clients/.
type Document struct {
	Names       []string `json:"names"`
	IPv4        string   `json:"ipv4"` // "" when there is none
	IPv6        string   `json:"ipv6"`
	Port        int      `json:"port"`
	Fingerprint string   `json:"fingerprint"`
	Updated     string   `json:"updated"` // RFC 3339, UTC: when the rest last changed
}

// Target is one place to publish at: exactly one of its pointers is set.
type Target struct {
	SSM     *SSM
	S3      *S3
	Route53 *Route53
	Webhook *Webhook

	// Names and Port replace those of Facts. Empty and 0: they do not.
	Names []string
	Port  int
}

// Outage is a target that could not be reached, or refused us, for a while.
type Outage struct {
	Target string    // as in logs: "ssm /postern/endpoint"
	Since  time.Time // of the first failure
	Ended  time.Time // zero while it lasts
	Err    error     // the last failure; holds no secret
}

// Config is what New needs.
type Config struct {
	// Facts tells what is known now. It is called often and must be quick.
	// Required.
	Facts func() Facts

	// OnOutage is told when an outage begins and when it ends, once each. It
	// must not block. Nil: only the log is told.
	OnOutage func(Outage)

	Log        *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // nil: nothing is counted
}

// pollEvery is how often Facts is asked without a reason: certificates change
// without telling.
const pollEvery = 30 * time.Second

// pushTimeout bounds one attempt.
const pushTimeout = 15 * time.Second

// Publisher pushes the document to its targets. Make it with New, give it
// targets with Prepare, let Run work. Its methods may be called from several
// goroutines.
type Publisher struct {
	cfg     Config
	metrics *metrics
	kicked  chan struct{}

	mu    sync.Mutex
	posts []*post // guarded by mu, and so is what they hold
}

// post is a target and what became of it.
type post struct {
	target Target
	name   string
	push   func(context.Context, Document) error

	busy    bool
	want    Document // what it should hold; Updated is when that was decided
	tried   Document // what the last attempt sent
	held    Document // what it holds as far as we know; zero after a start
	next    time.Time
	trouble trouble
}

// New makes a Publisher without targets.
func New(cfg Config) *Publisher {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Publisher{cfg: cfg, metrics: newMetrics(cfg.Registerer), kicked: make(chan struct{}, 1)}
}

// build opens every target.
func build(targets []Target) ([]*post, error) {
	var out []*post
	taken := map[string]int{}
	for _, t := range targets {
		name, push, err := t.open()
		if err != nil {
			return nil, err
		}
		if taken[name]++; taken[name] > 1 { // two webhooks of one host
			name = fmt.Sprintf("%s %d", name, taken[name])
		}
		out = append(out, &post{target: t, name: name, push: push})
	}
	return out, nil
}

// Prepare opens targets, which finds what is wrong with them, such as a key
// file that is not there, and returns what makes them the Publisher's. A
// target that did not change keeps what is known about it, so that nothing is
// pushed again.
func (p *Publisher) Prepare(targets []Target) (apply func(), err error) {
	next, err := build(targets)
	if err != nil {
		return nil, err
	}
	return func() { p.replace(next) }, nil
}

func (p *Publisher) replace(next []*post) {
	p.mu.Lock()
	old := p.posts
	for i, n := range next {
		if j := slices.IndexFunc(old, func(o *post) bool { return reflect.DeepEqual(o.target, n.target) }); j >= 0 {
			next[i] = old[j]
		}
	}
	p.posts = next
	for _, o := range old {
		if !slices.ContainsFunc(next, func(n *post) bool { return n.name == o.name }) {
			p.metrics.forget(o.name)
		}
	}
	for _, n := range next {
		p.metrics.know(n.name)
	}
	p.mu.Unlock()
	p.Changed()
}

// Changed says that Facts may have changed. It never blocks; many calls may
// become one push.
func (p *Publisher) Changed() {
	select {
	case p.kicked <- struct{}{}:
	default:
	}
}

// Run pushes what changed until ctx is done. After a start every target is
// written once, which makes sure of what it holds without a right to read it.
func (p *Publisher) Run(ctx context.Context) error {
	var work errgroup.Group
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return work.Wait() // attempts end with ctx
		case <-p.kicked:
		case <-timer.C:
		}
		timer.Reset(p.pass(ctx, &work))
	}
}

// pass begins what is due and returns when to look again.
func (p *Publisher) pass(ctx context.Context, work *errgroup.Group) time.Duration {
	p.mu.Lock()
	idle := len(p.posts) == 0
	p.mu.Unlock()
	if idle {
		return time.Hour // Prepare's func wakes us
	}
	facts, now := p.cfg.Facts(), time.Now()
	wait := pollEvery
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.posts {
		t.decide(facts, now)
		switch due := t.due(now); {
		case due < 0:
		case due == 0:
			t.busy, t.tried = true, t.want
			work.Go(func() error { p.attempt(ctx, t); return nil })
		default:
			wait = min(wait, due)
		}
	}
	return wait
}

// decide sets what the target should hold. Without any address there is
// nothing to tell, and what it holds stays.
func (t *post) decide(f Facts, now time.Time) {
	if !f.IPv4.IsValid() && !f.IPv6.IsValid() {
		return
	}
	d := Document{Names: f.Names, Port: f.Port, Fingerprint: f.Fingerprint}
	if len(t.target.Names) > 0 {
		d.Names = t.target.Names
	}
	if t.target.Port != 0 {
		d.Port = t.target.Port
	}
	if f.IPv4.IsValid() {
		d.IPv4 = f.IPv4.String()
	}
	if f.IPv6.IsValid() {
		d.IPv6 = f.IPv6.String()
	}
	d.Names = slices.Clone(d.Names)
	if !same(d, t.want) {
		d.Updated = now.UTC().Format(time.RFC3339)
		t.want = d
	}
}

// due is how long until the next attempt: 0 means at once, a negative time that
// there is none to make.
func (t *post) due(now time.Time) time.Duration {
	switch {
	case t.busy, t.want.Updated == "", same(t.want, t.held) && t.held.Updated != "":
		return -1
	case !same(t.want, t.tried): // news is worth an attempt at once
		return 0
	}
	return max(0, t.next.Sub(now))
}

// same compares what matters: not when it was decided.
func same(a, b Document) bool {
	return slices.Equal(a.Names, b.Names) && a.IPv4 == b.IPv4 && a.IPv6 == b.IPv6 && a.Port == b.Port && a.Fingerprint == b.Fingerprint
}

// attempt pushes once.
func (p *Publisher) attempt(ctx context.Context, t *post) {
	defer p.Changed()
	limited, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	p.mu.Lock()
	doc := t.tried
	p.mu.Unlock()
	err := t.push(limited, doc)
	if err != nil && ctx.Err() != nil {
		return // we are stopping: that is nobody's fault
	}
	now := time.Now()
	p.mu.Lock()
	t.busy = false
	var told *Outage
	if err == nil {
		t.held = doc
		told = t.trouble.worked(now)
	} else {
		told = t.trouble.failed(err, now)
		t.next = now.Add(t.trouble.wait(err))
	}
	failures, next := t.trouble.failures, t.next
	shown := slices.Contains(p.posts, t)
	p.mu.Unlock()
	if !shown {
		return // a reload took it away meanwhile
	}
	p.metrics.pushed(t.name, err, now)
	switch {
	case err == nil:
		p.cfg.Log.Info("endpoint published", "target", t.name, "ipv4", doc.IPv4, "ipv6", doc.IPv6, "port", doc.Port)
	default:
		p.cfg.Log.Debug("endpoint not published", "target", t.name, "err", err, "failures", failures, "next", next)
	}
	if told != nil {
		p.tell(t.name, *told)
	}
}

func (p *Publisher) tell(name string, o Outage) {
	o.Target = name
	if o.Ended.IsZero() {
		p.cfg.Log.Warn("endpoint cannot be published", "target", name, "since", o.Since, "err", o.Err)
	} else {
		p.cfg.Log.Info("endpoint can be published again", "target", name, "since", o.Since, "ended", o.Ended)
	}
	if p.cfg.OnOutage != nil {
		p.cfg.OnOutage(o)
	}
}

// encode is the document as it is stored.
func (d Document) encode() ([]byte, error) {
	if d.Names == nil {
		d.Names = []string{}
	}
	b, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("endpoint document: %w", err)
	}
	return b, nil
}
