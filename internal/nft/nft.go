// Package nft has the kernel drop what is banned, by nftables: the packets of
// a banned address end before a connection, a socket or a goroutine of ours
// comes into being.
//
// Everything is in a table of our own, "inet postern":
//
//	set v4, v4net, v6, v6net   IPv4 addresses, their /24 networks, IPv6 /64 and
//	                           /48 networks; each element has a timeout
//	set tcp, udp               the ports we listen on
//	chain input                hook input, priority -300: our ports → chain banned
//	chain banned               saddr in a set: counter, drop
//
// The hook is input and not an earlier one: before routing the packets of the
// networks behind this machine pass as well, and ports are those from before
// a redirect to ours. Its priority puts it before any firewall's filter
// (priority 0); what is dropped there never gets an entry in the connection
// tracking table, which is written at the end of input.
//
// The timeouts mean that nobody stays banned when the process dies: the kernel
// lets go of an address when its ban ends. A table that such a process left is
// replaced at the next start; on an orderly exit it is removed. No other table
// is ever read or written. CAP_NET_ADMIN is all it needs.
//
// Who is banned is not decided here. Bans are given with Put and Remove, and
// as a whole by Config.Bans whenever the table has to be made anew.
package nft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// batchFor is how long a change may wait for others: one message to the
	// kernel costs as much as some twenty elements.
	batchFor = 200 * time.Millisecond
	// batchSize sends a batch before its time.
	batchSize = 256
	// maxPending bounds the changes that wait. Beyond it they are forgotten
	// and everything is read anew.
	maxPending = 4096
	// maxBanned bounds each set, far above what guard holds by default; the
	// kernel needs some 100 bytes an element.
	maxBanned = 65536
	// retryEvery is how often a table that cannot be made is tried again.
	retryEvery = time.Minute
	// checkEvery is how often the table is compared with all bans there are:
	// another program may have flushed it, a ban may have been lifted.
	checkEvery = 10 * time.Second
	// minTimeout is the shortest ban worth a message.
	minTimeout = time.Second
)

// A Ban is a network that is dropped until a point in time.
type Ban struct {
	// Prefix is an IPv4 address (/32), an IPv6 /64 network, or a network of
	// many of them (/24, /48). Others are passed over.
	Prefix netip.Prefix
	// Until is when the kernel lets go of it by itself.
	Until time.Time
}

// Config is what a Drop works with. Bans is required.
type Config struct {
	// Bans returns all bans at present. It is asked at the start and every
	// 10 s, never while a lock of ours is held; what it does not have any
	// more is no longer dropped.
	Bans func() []Ban
	// Spares reports whether a network, or a part of it, must never be
	// dropped; it is asked for each ban, as Bans is. nil spares none.
	Spares func(netip.Prefix) bool
	// NetNS is a descriptor of the network namespace to work in, which stays
	// the caller's. 0 means that of the process.
	NetNS int
	// Log is told what changes; nil means nobody.
	Log *slog.Logger
	// Registerer takes the metrics; nil means they are not registered.
	Registerer prometheus.Registerer
}

// Status is how the drop is doing.
type Status struct {
	// Active tells that the table is in place.
	Active bool
	// Err is why it is not, nil if nothing is wrong.
	Err error
	// Banned is the number of networks given to the kernel that have not
	// ended.
	Banned int
	// Dropped is the number of packets dropped, as of the last look, which is
	// at most 10 s old.
	Dropped uint64
}

// A Drop keeps the kernel's table at what is banned while Run runs. New makes
// one; its methods are safe for concurrent use.
type Drop struct {
	cfg     Config
	metrics *metrics
	wake    chan struct{} // holds one
	running sync.Mutex    // one Run at a time

	mu      sync.Mutex
	pending map[netip.Prefix]time.Time // guarded by mu; a zero time removes
	stale   bool                       // guarded by mu; all must be read anew
	ports   ports                      // guarded by mu
	status  Status                     // guarded by mu; Banned aside
	until   map[netip.Prefix]time.Time // guarded by mu; what the kernel was given
	made    bool                       // guarded by mu; there may be a table to remove
}

// ports are the ports whose packets are looked at.
type ports struct{ tcp, udp []uint16 }

// New makes a Drop. It touches nothing before Run.
func New(cfg Config) *Drop {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Spares == nil {
		cfg.Spares = func(netip.Prefix) bool { return false }
	}
	d := &Drop{
		cfg:     cfg,
		wake:    make(chan struct{}, 1),
		pending: make(map[netip.Prefix]time.Time),
		until:   make(map[netip.Prefix]time.Time),
	}
	d.metrics = newMetrics(d, cfg.Registerer)
	return d
}

// SetPorts says which ports are ours: packets to others pass. The slices are
// copied.
func (d *Drop) SetPorts(tcp, udp []uint16) {
	next := ports{sorted(tcp), sorted(udp)}
	d.mu.Lock()
	same := slices.Equal(next.tcp, d.ports.tcp) && slices.Equal(next.udp, d.ports.udp)
	d.ports = next
	d.mu.Unlock()
	if !same {
		d.Resync()
	}
}

func sorted(ports []uint16) []uint16 {
	out := slices.Clone(ports)
	slices.Sort(out)
	return slices.Compact(out)
}

// Put has b dropped soon. It never blocks; without a Run it is without effect.
func (d *Drop) Put(b Ban) { d.change(b.Prefix, b.Until) }

// Remove lets the packets of a network pass again soon. It never blocks.
func (d *Drop) Remove(p netip.Prefix) { d.change(p, time.Time{}) }

func (d *Drop) change(p netip.Prefix, until time.Time) {
	d.mu.Lock()
	d.changeLocked(p, until)
	d.mu.Unlock()
	d.ring()
}

func (d *Drop) changeLocked(p netip.Prefix, until time.Time) {
	if d.stale {
		return
	}
	if d.pending[p] = until; len(d.pending) > maxPending {
		clear(d.pending)
		d.stale = true
	}
}

// Resync has everything read anew soon: after a change of what is spared, or
// of the mode of the guard. It never blocks.
func (d *Drop) Resync() {
	d.mu.Lock()
	clear(d.pending)
	d.stale = true
	d.mu.Unlock()
	d.ring()
}

// ring wakes Run.
func (d *Drop) ring() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Status tells how the drop is doing.
func (d *Drop) Status() Status {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.status
	for _, until := range d.until {
		if until.After(now) {
			s.Banned++
		}
	}
	return s
}

// Run keeps the table until ctx ends and removes it then. What goes wrong is
// told in the log when it begins, and tried again every minute: without the
// table everything works, it only costs more. The error is that of the
// removal.
func (d *Drop) Run(ctx context.Context) error {
	d.running.Lock()
	defer d.running.Unlock()
	for ctx.Err() == nil {
		t, err := d.install()
		if err == nil {
			d.tell(nil)
			err = d.follow(ctx, t)
		}
		if err == nil {
			continue // ctx ended, or all is to be read anew
		}
		if errors.Is(err, errGone) {
			d.cfg.Log.Warn("kernel drop: table inet postern was removed by another program, made anew")
			continue
		}
		d.tell(err)
		pause(ctx, retryEvery)
	}
	return d.uninstall()
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// tell notes whether the table is in place, and says so when that changes.
func (d *Drop) tell(err error) {
	d.mu.Lock()
	was := d.status
	d.status.Active, d.status.Err = err == nil, err
	if err != nil {
		clear(d.until)
	}
	d.mu.Unlock()
	switch {
	case err != nil:
		d.metrics.errors.Inc()
		if was.Err == nil || was.Err.Error() != err.Error() {
			d.cfg.Log.Error("kernel drop does not work: banned addresses are refused by the process alone", "err", err, "retry_in", retryEvery.String())
		}
	case !was.Active:
		d.cfg.Log.Info("kernel drop: table inet postern is in place")
	}
}

// install makes the table anew, with all bans there are.
func (d *Drop) install() (*table, error) {
	d.mu.Lock()
	clear(d.pending) // before the bans are read, so that none falls between
	d.stale = false
	p := d.ports
	d.mu.Unlock()
	bans, _ := d.sift(d.cfg.Bans(), nil, time.Now())

	t, err := openTable(d.cfg.NetNS)
	if err != nil {
		return nil, err
	}
	if err = t.replace(p); err == nil {
		d.mu.Lock()
		d.made = true
		d.mu.Unlock()
		err = t.put(bans)
	}
	if err != nil {
		return nil, err
	}
	d.metrics.rebuilds.Inc()
	d.metrics.changes["add"].Add(float64(len(bans)))
	d.mu.Lock()
	clear(d.until)
	for _, b := range bans {
		d.until[b.Prefix] = b.Until
	}
	d.mu.Unlock()
	return t, nil
}

// uninstall removes the table.
func (d *Drop) uninstall() error {
	d.mu.Lock()
	made := d.made
	d.made, d.status = false, Status{Dropped: d.status.Dropped}
	clear(d.until)
	d.mu.Unlock()
	if !made {
		return nil
	}
	t, err := openTable(d.cfg.NetNS)
	if err != nil {
		return err
	}
	if err := t.remove(); err != nil {
		return err
	}
	d.cfg.Log.Info("kernel drop: table inet postern removed")
	return nil
}

// follow brings changes to the kernel until ctx ends or everything has to be
// read anew, both nil, or something goes wrong.
func (d *Drop) follow(ctx context.Context, t *table) error {
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	batch := time.NewTimer(0)
	batch.Stop()
	defer batch.Stop()
	waiting, verified := false, false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-check.C:
			if err := d.look(t); err != nil {
				return err
			}
			d.ring()
			continue
		case <-d.wake:
			d.mu.Lock()
			n, stale := len(d.pending), d.stale
			d.mu.Unlock()
			if stale {
				return nil
			}
			if n < batchSize {
				if !waiting && n > 0 {
					batch.Reset(batchFor)
					waiting = true
				}
				continue
			}
			batch.Stop()
		case <-batch.C:
		}
		waiting = false
		added, err := d.flush(t)
		if err != nil {
			return err
		}
		if len(added) > 0 && !verified {
			verified = true
			d.verify(t, added[0])
		}
	}
}

// flush gives the kernel what is pending and returns what was added.
func (d *Drop) flush(t *table) ([]Ban, error) {
	now := time.Now()
	d.mu.Lock()
	changes := d.pending
	d.pending = make(map[netip.Prefix]time.Time)
	d.mu.Unlock()
	add, remove := d.sift(nil, changes, now)
	if err := t.put(add); err != nil {
		return nil, err
	}
	if err := t.drop(remove); err != nil {
		return nil, err
	}
	d.metrics.changes["add"].Add(float64(len(add)))
	d.metrics.changes["remove"].Add(float64(len(remove)))
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range remove {
		delete(d.until, p)
	}
	for _, b := range add {
		d.until[b.Prefix] = b.Until
	}
	if len(d.until) > maxBanned {
		d.forgetLocked(now)
	}
	return add, nil
}

// forgetLocked drops what the kernel has dropped by itself.
func (d *Drop) forgetLocked(now time.Time) {
	for p, until := range d.until {
		if !until.After(now) {
			delete(d.until, p)
		}
	}
}

// sift splits bans, and changes as pending holds them, into what is to be
// added and what to be removed. What is spared is removed, should it be there.
func (d *Drop) sift(bans []Ban, changes map[netip.Prefix]time.Time, now time.Time) (add []Ban, remove []netip.Prefix) {
	for p, until := range changes {
		if until.IsZero() {
			if droppable(p) {
				remove = append(remove, p)
			}
			continue
		}
		bans = append(bans, Ban{p, until})
	}
	count := make(map[form]int)
	for _, b := range bans {
		f := formOf(b.Prefix)
		switch {
		case !droppable(b.Prefix), b.Until.Sub(now) < minTimeout, count[f] == maxBanned:
		case d.cfg.Spares(b.Prefix):
			if changes != nil {
				remove = append(remove, b.Prefix)
			}
		default:
			count[f]++
			add = append(add, b)
		}
	}
	return add, remove
}

// A form is what a set holds: networks of one family and length.
type form struct {
	v6   bool
	bits int
}

// forms are the sets of banned networks, in the order they are looked at.
var forms = []struct {
	form
	set string
}{
	{form{false, 32}, "v4"},
	{form{false, 24}, "v4net"},
	{form{true, 64}, "v6"},
	{form{true, 48}, "v6net"},
}

func formOf(p netip.Prefix) form { return form{p.Addr().Is6(), p.Bits()} }

// droppable reports whether there is a set for p.
func droppable(p netip.Prefix) bool {
	if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
		return false
	}
	for _, f := range forms {
		if f.form == formOf(p) {
			return true
		}
	}
	return false
}

// verify reads back the first ban: a kernel or a container may take a table
// and not heed it. What it finds is said once.
func (d *Drop) verify(t *table, b Ban) {
	err := t.has(b.Prefix)
	switch {
	case time.Until(b.Until) < minTimeout: // it may have ended by itself
	case err != nil:
		d.cfg.Log.Error("kernel drop has no effect: banned addresses are refused by the process alone", "address", b.Prefix.String(), "err", err)
		d.metrics.errors.Inc()
	default:
		d.cfg.Log.Info("kernel drop is in effect: the first ban was read back from the kernel", "address", b.Prefix.String())
	}
}

// look reads the counters, finds out whether the table is still there, and
// compares what the kernel was given with what is banned.
func (d *Drop) look(t *table) error {
	packets, err := t.dropped()
	if err != nil {
		return err
	}
	d.metrics.dropped.Add(float64(packets))
	add, _ := d.sift(d.cfg.Bans(), nil, time.Now())
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status.Dropped += packets
	d.forgetLocked(time.Now())
	gone := maps.Clone(d.until)
	for _, b := range add {
		delete(gone, b.Prefix)
		if d.until[b.Prefix].Sub(b.Until).Abs() > minTimeout {
			d.changeLocked(b.Prefix, b.Until)
		}
	}
	for p := range gone {
		if _, waits := d.pending[p]; !waits {
			d.changeLocked(p, time.Time{})
		}
	}
	return nil
}

// errGone is that the table is not there any more.
var errGone = errors.New("table inet postern is gone")

// wayOut adds to a refusal of the kernel what people can do about it.
func wayOut(err error, denied bool) error {
	if denied {
		return fmt.Errorf("nftables: the right to change it is missing: give CAP_NET_ADMIN (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE CAP_NET_ADMIN and the same for CapabilityBoundingSet), or set guard.kernel: off: %w", err)
	}
	return fmt.Errorf("nftables: set up table inet postern: %w; `nft list tables` tells whether this kernel has nftables, otherwise set guard.kernel: off", err)
}
