package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Sender delivers to one service. It is called by one goroutine at a time,
// must end with its context, and its errors hold no secret.
type Sender interface {
	// Service is the name of the service, such as "discord".
	Service() string

	// Edits reports whether Send can change a message it sent before.
	Edits() bool

	// Send delivers n; id names the message to change, "" for a new one. It
	// returns the id of the message. An error is a *Failure if the service
	// said why.
	Send(ctx context.Context, n *Note, id string) (string, error)
}

// Failure is why a message was not delivered.
type Failure struct {
	Status int    // HTTP status, 0 without one
	Cause  string // one sentence without secrets

	Wait time.Duration // the service wants to be left alone for so long
	Dead bool          // the channel does not exist or is not ours: trying again is no use
	Gone bool          // only the message to change is not there any more
	Bad  bool          // the message is not acceptable; another may be
}

func (f *Failure) Error() string { return f.Cause }

const (
	// deadline bounds one delivery.
	deadline = 20 * time.Second

	// firstRetry is the pause after the first failure, doubled with each
	// further one up to lastRetry; a fifth of it is left to chance.
	firstRetry = 5 * time.Second
	lastRetry  = 10 * time.Minute
)

// channel is a Channel with what is known of it.
type channel struct {
	Channel
	key     string
	rules   rules
	zone    *time.Location
	kinds   map[Kind]kind
	texts   map[string]map[Language]text
	log     *slog.Logger
	metrics *metrics
	saved   func() // told when something was sent that must not be forgotten
	wake    chan struct{}
	ended   chan struct{} // closed by end

	mu      sync.Mutex
	desk    desk // guarded by mu
	running bool
	over    bool
	state   channelState
}

// channelState is what health tells; guarded by channel.mu.
type channelState struct {
	dead      bool
	failures  int       // in a row
	since     time.Time // of the failures
	lastErr   string
	retryAt   time.Time
	delivered time.Time
}

func newChannel(c Channel, o *Outbox) *channel {
	if c.Language == "" {
		c.Language = English
	}
	if c.Digest <= 0 {
		c.Digest = time.Hour
	}
	ch := &channel{
		Channel: c, key: c.Key, zone: o.cfg.Zone, kinds: o.kinds, texts: texts(),
		rules:   rules{window: c.Digest, quiet: c.Quiet, summary: c.Summary, edits: c.Sender.Edits()},
		log:     o.log.With("channel", c.Name, "service", c.Sender.Service()),
		metrics: o.metrics, saved: o.save,
		wake: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	return ch
}

// same reports whether d asks for nothing else than c.
func (c *channel) same(d Channel) bool {
	if d.Language == "" {
		d.Language = English
	}
	if d.Digest <= 0 {
		d.Digest = time.Hour
	}
	return c.Sender == d.Sender && c.Name == d.Name && slices.Equal(c.Topics, d.Topics) && c.Language == d.Language &&
		c.Digest == d.Digest && c.Quiet == d.Quiet && c.Summary == d.Summary
}

// handOver ends c and gives next what waits.
func (c *channel) handOver(next *channel) {
	c.end()
	c.mu.Lock()
	defer c.mu.Unlock()
	next.desk = c.desk
	c.desk = desk{}
}

// begin reports whether the caller is to run c: once.
func (c *channel) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running || c.over {
		return false
	}
	c.running = true
	return true
}

// end stops c for good.
func (c *channel) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.over = true
		close(c.ended)
	}
}

func (c *channel) wants(t Topic) bool {
	return len(c.Topics) == 0 || slices.Contains(c.Topics, t)
}

// take puts what came in onto the desk.
func (c *channel) take(list []Message, t *tally, dropped int, now time.Time) {
	now = now.In(c.zone)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range list {
		if k := c.kinds[m.Kind]; c.wants(k.topic) {
			c.desk.put(m, k, now)
		}
	}
	if !c.wants(Guard) {
		t = &tally{}
	}
	c.desk.count(t, dropped, now)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run delivers until ctx or c ends.
func (c *channel) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() {
		c.mu.Lock()
		c.running = false
		c.mu.Unlock()
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		job, at := c.next(time.Now().In(c.zone))
		if job != nil {
			c.do(ctx, job)
			if ctx.Err() != nil || c.isOver() {
				return
			}
			continue
		}
		pause := time.Hour
		if !at.IsZero() {
			pause = max(time.Until(at), time.Millisecond)
		}
		timer.Reset(pause)
		select {
		case <-ctx.Done():
			return
		case <-c.ended:
			return
		case <-c.wake:
		case <-timer.C:
		}
	}
}

func (c *channel) isOver() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over
}

// job is one delivery under way.
type job struct {
	do     todo
	note   *Note
	id     string
	rev    int       // of the digest
	urgent []Message // of the desk, from the first
	day    daysEvents
}

// next returns what to do now, or when to look again.
func (c *channel) next(now time.Time) (*job, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.dead {
		c.desk = desk{}
		return nil, time.Time{}
	}
	if now.Before(c.state.retryAt) {
		return nil, c.state.retryAt
	}
	for {
		if g := c.desk.Digest; g != nil && g.stale(now) {
			g.lost()
		}
		do, at := c.desk.plan(now, &c.rules)
		switch do {
		case wait:
			return nil, at
		case closeDigest:
			c.desk.Digest = nil
		case skipSummary:
			c.desk.NextSummary = c.rules.summary.next(now)
		default:
			return c.prepare(do, now), now
		}
	}
}

// prepare makes the job's note of what the desk holds. mu is held.
func (c *channel) prepare(do todo, now time.Time) *job {
	j := &job{do: do}
	if do != editDigest {
		c.desk.sending = 1
	}
	switch do {
	case sendUrgent:
		j.urgent = slices.Clone(c.desk.Urgent[:min(perMessage, len(c.desk.Urgent))])
		j.note = c.urgentNote(j.urgent)
	case postDigest, editDigest:
		g := c.desk.Digest
		j.id, j.rev = g.ID, g.Rev
		j.note = c.digestNote(g, now)
	case sendSummary:
		j.day = c.desk.Day
		j.note = c.dayNote(&j.day, now)
		c.desk.Day = daysEvents{} // what comes while it is sent belongs to the next one
	}
	return j
}

// do delivers j and notes what became of it.
func (c *channel) do(ctx context.Context, j *job) {
	limited, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	id, err := c.Sender.Send(limited, j.note, j.id)
	now := time.Now().In(c.zone)
	c.mu.Lock()
	c.desk.sending = 0
	posted := err == nil && j.do == postDigest
	switch {
	case c.over: // the desk is another one's now
	case err == nil:
		c.done(j, id, now)
	default:
		c.failed(ctx, j, err, now)
	}
	c.mu.Unlock()
	if posted {
		c.saved() // so that a restart goes on changing this message
	}
}

// done notes a delivery. mu is held.
func (c *channel) done(j *job, id string, now time.Time) {
	c.metrics.delivered(c.Name)
	if s := c.state; s.failures > 0 {
		c.log.Info("messages get through again", "after", now.Sub(s.since).Round(time.Second).String())
	}
	c.state = channelState{delivered: now}
	switch j.do {
	case sendUrgent:
		var topics []Topic
		provoked := true
		for _, m := range j.urgent {
			k := c.kinds[m.Kind]
			provoked = provoked && k.provoked
			if !slices.Contains(topics, k.topic) {
				topics = append(topics, k.topic)
			}
		}
		c.desk.sentUrgent(len(j.urgent), topics, provoked, now)
	case postDigest:
		c.desk.posted(id, j.rev, &c.rules, now)
	case editDigest:
		c.desk.edited(j.rev, now)
	case sendSummary:
		c.desk.Posts = append(c.desk.Posts, now)
		c.desk.NextSummary = c.rules.summary.next(now)
	}
}

// failed notes that a delivery came to nothing. mu is held.
func (c *channel) failed(ctx context.Context, j *job, err error, now time.Time) {
	if j.do == sendSummary { // it is still to be told
		later := c.desk.Day
		c.desk.Day = j.day
		c.desk.Day.add(&later)
	}
	if ctx.Err() != nil {
		return // we are stopping: nothing is known about the service
	}
	f, ok := errors.AsType[*Failure](err)
	if !ok {
		f = &Failure{Cause: err.Error()}
	}
	s := &c.state
	switch {
	case f.Gone:
		c.desk.Digest.lost()
		return
	case f.Dead:
		c.metrics.failed(c.Name, "disabled")
		s.dead, s.since, s.lastErr = true, now, f.Cause
		c.metrics.setUp(c.Name, false)
		c.log.Error("channel disabled until its configuration changes", "err", f.Cause)
		return
	case f.Bad:
		c.metrics.failed(c.Name, "refused")
		c.log.Error("message refused by the service and dropped", "err", f.Cause)
		s.lastErr = f.Cause
		c.drop(j, now)
		return
	case f.Wait > 0:
		c.metrics.failed(c.Name, "limited")
	default:
		c.metrics.failed(c.Name, "retried")
	}
	if s.failures == 0 {
		s.since = now
		c.log.Warn("message not delivered, it is kept", "err", f.Cause)
	}
	s.failures++
	s.lastErr = f.Cause
	s.retryAt = now.Add(max(f.Wait, retryIn(s.failures, rand.Float64())))
	if f.Wait > 0 {
		s.retryAt = now.Add(f.Wait)
	}
}

// drop gives up what the service does not accept. mu is held.
func (c *channel) drop(j *job, now time.Time) {
	switch j.do {
	case sendUrgent:
		c.desk.sentUrgent(len(j.urgent), nil, false, now)
	case postDigest, editDigest:
		c.desk.Digest = nil
	case sendSummary:
		c.desk.Day = daysEvents{}
		c.desk.NextSummary = c.rules.summary.next(now)
	}
}

// retryIn is the pause after n failures in a row; chance is from [0,1).
func retryIn(n int, chance float64) time.Duration {
	d := lastRetry
	if n < 8 {
		d = min(lastRetry, firstRetry<<(n-1))
	}
	return d - time.Duration(chance*float64(d)/5)
}

// flush tries once to deliver the urgent messages.
func (c *channel) flush(ctx context.Context) {
	c.mu.Lock()
	var j *job
	if !c.state.dead && !c.over && c.state.failures == 0 && len(c.desk.Urgent) > 0 {
		j = c.prepare(sendUrgent, time.Now().In(c.zone))
	}
	c.mu.Unlock()
	if j != nil {
		c.do(ctx, j)
	}
}

func (d *daysEvents) add(e *daysEvents) {
	d.Tally.add(&e.Tally)
	for k, n := range e.Kinds {
		if d.Kinds == nil {
			d.Kinds = make(map[Kind]int)
		}
		d.Kinds[k] += n
	}
}

// Status says how one channel is doing.
type Status struct {
	Name    string
	Service string

	// Disabled is a channel that does not exist any more or is not ours: no
	// message is sent until its configuration changes.
	Disabled bool

	// Failing is a channel whose messages are not getting through at present.
	Failing bool

	Since     time.Time // of Disabled or Failing
	LastError string    // without secrets
	NextTry   time.Time // while Failing
	Delivered time.Time // the last message; zero: none since the start
	Waiting   int       // messages, and digests, not delivered yet
}

// Status returns the channels in the order of the configuration.
func (o *Outbox) Status() []Status {
	var out []Status
	for _, c := range o.list() {
		c.mu.Lock()
		s := Status{
			Name: c.Name, Service: c.Sender.Service(), Disabled: c.state.dead, Failing: c.state.failures > 0 && !c.state.dead,
			Since: c.state.since, LastError: c.state.lastErr, NextTry: c.state.retryAt, Delivered: c.state.delivered,
			Waiting: len(c.desk.Urgent),
		}
		if g := c.desk.Digest; g != nil && g.Rev > g.Shown {
			s.Waiting++
		}
		c.mu.Unlock()
		out = append(out, s)
	}
	return out
}

// String is one line for people.
func (s Status) String() string {
	switch {
	case s.Disabled:
		return fmt.Sprintf("%s: disabled: %s", s.Name, s.LastError)
	case s.Failing:
		return fmt.Sprintf("%s: messages do not get through: %s", s.Name, s.LastError)
	}
	return s.Name + ": ok"
}

// Try sends a test message through c now, past every rule, and returns what
// came back. The channel needs no outbox.
func Try(ctx context.Context, c Channel) error {
	ch := newChannel(c, New(Config{}))
	m := Message{Kind: Test, Args: map[string]string{"channel": c.Name}, At: time.Now()}
	_, err := c.Sender.Send(ctx, ch.urgentNote([]Message{m}), "")
	return err
}
