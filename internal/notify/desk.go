package notify

import (
	"slices"
	"time"
)

// The rules of when something is sent.
const (
	// together is how long an urgent message waits for others, so that one
	// cause with ten effects is one message.
	together = 3 * time.Second

	// late is when an urgent message that could not be delivered becomes a
	// line of the digest: nobody wants forty messages about yesterday.
	late = 10 * time.Minute

	// perTopic bounds the urgent messages of one topic in an hour; what is
	// beyond goes into the digest. A backend that flaps is told four times.
	perTopic = 4

	// perHour bounds digests, summaries and what strangers provoke, together.
	perHour = 4

	// firstDigest is how long the first line of a digest waits for others
	// where the message can be edited; where it can not, the digest is sent
	// when its window is over.
	firstDigest = time.Minute

	// editEvery is the time between two edits of a digest, editOld that of
	// one that is older than an hour: Discord counts those apart.
	editEvery = 2 * time.Minute
	editOld   = 10 * time.Minute

	// again is how long a provoked message is not told apart a second time.
	again = 6 * time.Hour

	// summaryLate is how late a summary may be; after that it waits for the
	// next day's.
	summaryLate = 2 * time.Hour
)

// Bounds of what is kept.
const (
	maxUrgent = 32

	// perMessage bounds the urgent messages that go into one.
	perMessage = 8
	maxRows    = 24
	maxTold    = 64
)

// rules is what a channel's owner chose.
type rules struct {
	window  time.Duration // of a digest
	quiet   Quiet
	summary Clock // -1: none
	edits   bool  // the service can change a message it has
}

// desk is what waits to be sent through one channel, and what was sent: a
// plain value that survives restarts. It decides; others act. Not safe for
// concurrent use.
type desk struct {
	Urgent []Message  `json:"urgent,omitempty"`
	Digest *digest    `json:"digest,omitempty"`
	Day    daysEvents `json:"day"`

	NextSummary time.Time             `json:"next_summary,omitzero"`
	Posts       []time.Time           `json:"posts,omitempty"`  // of digests and summaries in the last hour
	Alerts      map[Topic][]time.Time `json:"alerts,omitempty"` // urgent messages of the last hour
	Told        map[string]time.Time  `json:"told,omitempty"`   // provoked messages of late

	sending int // posts under way, which count already
}

// daysEvents is what the daily summary tells.
type daysEvents struct {
	Tally tally        `json:"tally"`
	Kinds map[Kind]int `json:"kinds,omitempty"`
}

func (d *daysEvents) empty() bool { return d.Tally.empty() && len(d.Kinds) == 0 }

// digest is the message of one window.
type digest struct {
	Began   time.Time `json:"began"`
	ID      string    `json:"id,omitempty"` // of the message, once there is one
	Posted  time.Time `json:"posted,omitzero"`
	Edited  time.Time `json:"edited,omitzero"` // or posted
	Rev     int       `json:"rev"`             // counts changes
	Shown   int       `json:"shown"`           // the Rev that the message shows
	Rows    []row     `json:"rows,omitempty"`  // the latest last
	More    int       `json:"more,omitempty"`  // rows that had no room
	Tally   tally     `json:"tally"`
	Dropped int       `json:"dropped,omitempty"`
}

// row is a line of a digest: the same message, so many times.
type row struct {
	Message Message   `json:"message"`
	Times   int       `json:"times"`
	Last    time.Time `json:"last"`
}

// put takes m in. k is its kind.
func (d *desk) put(m Message, k kind, now time.Time) {
	if d.Day.Kinds == nil {
		d.Day.Kinds = make(map[Kind]int)
	}
	if k.urgent {
		d.Day.Kinds[m.Kind]++ // the others are counted or need no counting
		if d.alertsLeft(k.topic, now) > 0 && len(d.Urgent) < maxUrgent && !d.waits(m) && (!k.provoked || d.newsworthy(m, now)) {
			d.Urgent = append(d.Urgent, m)
			return
		}
	}
	d.open(now).add(m, now)
}

// newsworthy reports whether a provoked message may be told apart, and notes
// that it is.
func (d *desk) newsworthy(m Message, now time.Time) bool {
	for key, at := range d.Told {
		if now.Sub(at) >= again {
			delete(d.Told, key)
		}
	}
	key := string(m.Kind) + " " + m.Args["limit"] + " " + m.Args["host"]
	if _, told := d.Told[key]; told || len(d.Told) >= maxTold || len(d.Urgent) >= perMessage || d.postsLeft(now) <= 0 {
		return false
	}
	if d.Told == nil {
		d.Told = make(map[string]time.Time)
	}
	d.Told[key] = now
	return true
}

// postsLeft is how many messages beside those that a person must have may
// still be sent in this hour.
func (d *desk) postsLeft(now time.Time) int {
	n := perHour - d.sending
	for _, at := range d.Posts {
		if now.Sub(at) < time.Hour {
			n--
		}
	}
	return n
}

// waits reports whether the very same message is among the urgent ones
// already.
func (d *desk) waits(m Message) bool {
	return slices.ContainsFunc(d.Urgent, m.same)
}

// count takes in what was counted since the last time.
func (d *desk) count(t *tally, dropped int, now time.Time) {
	if !t.empty() {
		g := d.open(now)
		g.Tally.add(t)
		g.Rev++
		d.Day.Tally.add(t)
	}
	if dropped > 0 {
		g := d.open(now)
		g.Dropped += dropped
		g.Rev++
	}
}

// open returns the digest that is being written.
func (d *desk) open(now time.Time) *digest {
	if d.Digest == nil {
		d.Digest = &digest{Began: now}
	}
	return d.Digest
}

func (g *digest) add(m Message, now time.Time) {
	g.Rev++
	for i := range g.Rows {
		if g.Rows[i].Message.same(m) {
			r := g.Rows[i]
			r.Times++
			r.Last = now
			g.Rows = append(slices.Delete(g.Rows, i, i+1), r)
			return
		}
	}
	g.Rows = append(g.Rows, row{m, 1, now})
	if len(g.Rows) > maxRows {
		g.Rows = slices.Delete(g.Rows, 0, 1)
		g.More++
	}
}

// todo is what to do next.
type todo uint8

const (
	wait todo = iota
	sendUrgent
	postDigest
	editDigest
	closeDigest // its window is over and everybody has seen all of it
	sendSummary
	skipSummary
)

// plan returns what to do at now, and for wait when to look again (zero: when
// something comes in). It changes nothing but what is over by itself.
func (d *desk) plan(now time.Time, r *rules) (do todo, at time.Time) {
	d.forget(now)
	d.foldLate(now)
	if len(d.Urgent) > 0 {
		due := d.Urgent[0].At.Add(together)
		if !now.Before(due) {
			return sendUrgent, now
		}
		at = sooner(at, due)
	}
	do, when := d.planDigest(now, r)
	if do != wait {
		return do, now
	}
	at = sooner(at, when)
	do, when = d.planSummary(now, r)
	if do != wait {
		return do, now
	}
	return wait, sooner(at, when)
}

func (d *desk) planDigest(now time.Time, r *rules) (todo, time.Time) {
	g := d.Digest
	if g == nil {
		return wait, time.Time{}
	}
	over := g.Began.Add(r.window)
	if g.ID != "" {
		every := editEvery
		if now.Sub(g.Posted) >= time.Hour {
			every = editOld
		}
		edit := g.Edited.Add(every)
		switch {
		case !now.Before(over) && g.Rev == g.Shown:
			return closeDigest, now
		case !now.Before(over), g.Rev > g.Shown && !now.Before(edit):
			return editDigest, now
		case g.Rev > g.Shown:
			return wait, sooner(edit, over)
		}
		return wait, over
	}
	due := over
	if r.edits {
		due = g.Began.Add(firstDigest)
	}
	return d.whenFree(due, now, r, postDigest)
}

// whenFree returns do once it is due, quiet hours are over and the hour has
// room for one more message.
func (d *desk) whenFree(due, now time.Time, r *rules, do todo) (todo, time.Time) {
	if now.Before(due) {
		return wait, due
	}
	if end := r.quiet.end(now); end.After(now) {
		return wait, end
	}
	switch {
	case len(d.Posts) >= perHour:
		return wait, d.Posts[len(d.Posts)-perHour].Add(time.Hour)
	case len(d.Posts) == perHour-1 && len(d.Urgent) > 0: // they may be provoked, and were first
		return wait, now.Add(together)
	}
	return do, now
}

func (d *desk) planSummary(now time.Time, r *rules) (todo, time.Time) {
	if r.summary < 0 {
		return wait, time.Time{}
	}
	if d.NextSummary.IsZero() || d.NextSummary.After(r.summary.next(now)) { // also: the owner moved it
		d.NextSummary = r.summary.next(now)
	}
	if now.Before(d.NextSummary) {
		return wait, d.NextSummary
	}
	if d.Day.empty() || now.Sub(d.NextSummary) > summaryLate && !r.quiet.end(d.NextSummary).After(d.NextSummary) {
		return skipSummary, now
	}
	return d.whenFree(d.NextSummary, now, r, sendSummary)
}

// forget drops what an hour's bound no longer needs.
func (d *desk) forget(now time.Time) {
	old := func(t time.Time) bool { return now.Sub(t) >= time.Hour }
	d.Posts = slices.DeleteFunc(d.Posts, old)
	for topic, at := range d.Alerts {
		if at = slices.DeleteFunc(at, old); len(at) == 0 {
			delete(d.Alerts, topic)
		} else {
			d.Alerts[topic] = at
		}
	}
}

// foldLate makes lines of the digest of urgent messages nobody got in time.
func (d *desk) foldLate(now time.Time) {
	n := 0
	for n < len(d.Urgent) && now.Sub(d.Urgent[n].At) > late {
		m := d.Urgent[n]
		d.open(m.At).add(m, m.At)
		n++
	}
	d.Urgent = slices.Delete(d.Urgent, 0, n)
}

func (d *desk) alertsLeft(t Topic, now time.Time) int {
	n := 0
	for _, at := range d.Alerts[t] {
		if now.Sub(at) < time.Hour {
			n++
		}
	}
	return perTopic - n
}

// Afterwards: what was done is noted.

func (d *desk) sentUrgent(n int, topics []Topic, provoked bool, now time.Time) {
	d.Urgent = slices.Delete(d.Urgent, 0, n)
	if provoked {
		d.Posts = append(d.Posts, now)
	}
	if d.Alerts == nil {
		d.Alerts = make(map[Topic][]time.Time)
	}
	for _, t := range topics {
		d.Alerts[t] = append(d.Alerts[t], now)
	}
}

func (d *desk) posted(id string, rev int, r *rules, now time.Time) {
	d.Posts = append(d.Posts, now)
	if g := d.Digest; r.edits && id != "" {
		g.ID, g.Posted, g.Edited, g.Shown = id, now, now, rev
		return
	}
	d.Digest = nil
}

func (d *desk) edited(rev int, now time.Time) { d.Digest.Edited, d.Digest.Shown = now, rev }

// lost makes the digest one that has not been posted, because its message is
// gone, or because nobody would see it change any more.
func (g *digest) lost() { g.ID, g.Posted, g.Shown = "", time.Time{}, -1 }

// stale reports whether the message has not been brought up to date for so
// long that its reader will not look at it again.
func (g *digest) stale(now time.Time) bool {
	return g.ID != "" && g.Rev > g.Shown && now.Sub(g.Edited) > editOld+late
}

func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
