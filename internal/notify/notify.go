// Package notify delivers short messages to people, late but never blocking
// the caller.
//
// Who has something to tell calls Outbox.Send, or Outbox.Count for what
// happens too often to be told one by one; both return at once. Each channel
// (a Discord webhook, a service that shoutrrr knows) has a worker of its own,
// which decides with a pure rule (desk.plan) and acts: urgent messages go out
// within seconds, everything else becomes one digest for each window of time,
// which on Discord is one message that is edited, and a summary once a day.
package notify

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Message is something to tell people: a Kind and the values for its text.
// Every value may come from strangers: it is quoted and made harmless when it
// is shown.
type Message struct {
	Kind Kind              `json:"kind"`
	Args map[string]string `json:"args,omitempty"`

	// At is when it happened. Zero: when it was sent.
	At time.Time `json:"at"`
}

func (m Message) same(o Message) bool { return m.Kind == o.Kind && maps.Equal(m.Args, o.Args) }

// inboxSize bounds the messages that wait for Run to hand them out. What is
// beyond is counted and told as a number.
const inboxSize = 256

// Config is what an Outbox is made of.
type Config struct {
	// File is where what waits is kept over a restart. Empty: nowhere.
	File string

	// Zone is the time zone of quiet hours and of times in messages. Nil:
	// the machine's.
	Zone *time.Location

	// Log may be nil.
	Log *slog.Logger

	// Metrics may be nil.
	Metrics prometheus.Registerer
}

// Channel is one way to people.
type Channel struct {
	// Name is how it is called in the log, in health and in metrics. It must
	// be unique among the channels.
	Name string

	// Key tells whether two readings of the configuration mean the same
	// channel: what waits, and what is known of it, is taken over then. It
	// must hold no secret that could be found out of it.
	Key string

	// Sender is where it goes. Two readings of an unchanged configuration
	// must give the same Sender, an equal one is not enough: a new one is
	// tried although the old one was given up.
	Sender Sender

	// Topics are those that are told. Empty: all.
	Topics []Topic

	// Language is that of the messages. Empty: English.
	Language Language

	// Digest is the window of time that one digest covers. 0: an hour.
	Digest time.Duration

	// Quiet is when only urgent messages go out.
	Quiet Quiet

	// Summary is when the daily summary is sent; less than 0: never.
	Summary Clock
}

// Outbox takes messages and has them delivered. Make it with New, run it with
// Run. Its methods may be called from several goroutines.
type Outbox struct {
	cfg     Config
	log     *slog.Logger
	kinds   map[Kind]kind
	metrics *metrics
	wake    chan struct{} // holds one

	mu       sync.Mutex
	inbox    []Message // guarded by mu; the oldest first
	tally    tally     // guarded by mu
	dropped  int       // guarded by mu; messages without room, not told yet
	channels []*channel
	old      map[string]savedChannel // by key; of channels that are not there (yet)
	told     bool                    // there is a channel for anything

	saving     sync.Mutex // one writer of the file at a time
	savedAs    string     // guarded by saving; what the file holds
	saveFailed bool       // guarded by saving
}

// New returns an Outbox with no channels and reads what an earlier one left in
// cfg.File; a file that cannot be read is told in the log and moved aside.
func New(cfg Config) *Outbox {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Zone == nil {
		cfg.Zone = time.Local
	}
	o := &Outbox{cfg: cfg, log: cfg.Log, kinds: kinds(), wake: make(chan struct{}, 1)}
	o.metrics = newMetrics(o, cfg.Metrics)
	o.load()
	return o
}

// Send queues m and returns at once, also when every channel is down: a
// request must never wait for a message. A kind that does not exist is told in
// the log and dropped.
func (o *Outbox) Send(m Message) {
	if _, ok := o.kinds[m.Kind]; !ok {
		o.log.Error("a message of no known kind is dropped", "kind", string(m.Kind))
		return
	}
	if m.At.IsZero() {
		m.At = time.Now()
	}
	m.Args = bounded(m.Args)
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.told {
		return
	}
	if len(o.inbox) >= inboxSize {
		o.inbox = slices.Delete(o.inbox, 0, 1)
		o.dropped++
		o.metrics.dropped.Inc()
	}
	o.inbox = append(o.inbox, m)
	o.poke()
}

// bounded keeps what a message holds small; more is never shown.
func bounded(args map[string]string) map[string]string {
	const most = 4 * maxSentence // bytes
	out := make(map[string]string, len(args))
	for name, value := range args {
		if len(value) > most {
			value = value[:most]
		}
		out[name] = value
	}
	return out
}

// Count takes in what happened too often to be told one by one, and returns at
// once: it appears as numbers in digests and in the daily summary.
func (o *Outbox) Count(c Counts) {
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.told {
		return
	}
	o.tally.note(now, &c)
	o.poke()
}

func (o *Outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// SetChannels makes list the channels. Those that were there before, by their
// Key, keep what waits and what is known of them.
func (o *Outbox) SetChannels(list []Channel) {
	o.mu.Lock()
	defer o.mu.Unlock()
	before := o.channels
	o.channels = nil
	for _, c := range list {
		i := slices.IndexFunc(before, func(b *channel) bool { return b.key == c.Key && b.same(c) })
		if i >= 0 {
			o.channels = append(o.channels, before[i])
			before = slices.Delete(slices.Clone(before), i, i+1)
			continue
		}
		next := newChannel(c, o)
		if i := slices.IndexFunc(before, func(b *channel) bool { return b.key == c.Key }); i >= 0 {
			before[i].handOver(next)
			before = slices.Delete(slices.Clone(before), i, i+1)
		} else if saved, ok := o.old[c.Key]; ok {
			next.desk = saved.Desk
			delete(o.old, c.Key)
		}
		o.channels = append(o.channels, next)
		o.metrics.channel(c.Name)
	}
	for _, b := range before {
		b.end()
		if !slices.ContainsFunc(list, func(c Channel) bool { return c.Name == b.Name }) {
			o.metrics.forget(b.Name)
		}
	}
	o.told = len(o.channels) > 0
	o.poke()
}

// gather is how long Run lets counts gather before it hands them out.
const gather = time.Second

// Run delivers until ctx is done, and then writes down what still waits. The
// goroutines of the channels are its own: it waits for them.
func (o *Outbox) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer func() {
		running.Wait()
		o.handOut(time.Now())
		o.save()
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	saving := time.NewTicker(saveEvery)
	defer saving.Stop()
	for {
		o.handOut(time.Now())
		for _, c := range o.list() {
			if c.begin() {
				running.Go(func() { c.run(ctx) })
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-o.wake:
			if !sleep(ctx, gather/10) {
				return nil
			}
		case <-saving.C:
			o.save()
		}
	}
}

// Flush tries once, for as long as ctx lasts, to deliver the urgent messages
// that wait. Call it when Run has ended.
func (o *Outbox) Flush(ctx context.Context) {
	o.handOut(time.Now())
	var flushing sync.WaitGroup
	for _, c := range o.list() {
		flushing.Go(func() { c.flush(ctx) })
	}
	flushing.Wait()
	o.save()
}

func (o *Outbox) list() []*channel {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.channels)
}

// handOut gives the channels what came in.
func (o *Outbox) handOut(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.inbox) == 0 && o.tally.empty() && o.dropped == 0 {
		return
	}
	for _, c := range o.channels {
		c.take(o.inbox, &o.tally, o.dropped, now)
	}
	o.inbox, o.tally, o.dropped = nil, tally{}, 0
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
