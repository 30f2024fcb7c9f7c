package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// sample is one measurement: one load on one proxy in one round.
type sample struct {
	CPU     float64 `json:"cpu_us"`    // CPU time per unit, microseconds
	User    float64 `json:"user_us"`   // in user mode, in coarse steps
	System  float64 `json:"system_us"` // in the kernel, in coarse steps
	Rate    float64 `json:"units_per_second"`
	P50     float64 `json:"p50_us"`
	P99     float64 `json:"p99_us"`
	PSS     int64   `json:"pss_bytes"`                 // after the load; with idle connections: while they are open
	PerConn float64 `json:"connection_bytes,omitzero"` // growth of the PSS per idle connection
	Units   int     `json:"units"`
	Failed  int     `json:"failed"`
	Retried int     `json:"retried"`
	Error   string  `json:"error,omitzero"` // the first failure
}

// row is what was found for one load.
type row struct {
	Load    string              `json:"load"`
	What    string              `json:"what"`
	Unit    string              `json:"unit"`
	Kind    measureKind         `json:"-"`
	Samples map[string][]sample `json:"samples"` // by proxy, in the order of rounds
	Missing map[string]string   `json:"missing"` // why a proxy has no samples
}

// of returns one figure of a proxy's samples, by round.
func (r *row) of(proxy string, figure func(sample) float64) []float64 {
	var out []float64
	for _, s := range r.Samples[proxy] {
		out = append(out, figure(s))
	}
	return out
}

// bench is one run of the driver.
type bench struct {
	options *options
	root    string // of the module
	dir     string // temporary
	proxies []*contestant
	common  setup
	cpus    int
	files   uint64
	log     io.Writer
}

// drive is the driver: it does everything from the command line to the
// results.
func drive(ctx context.Context, args []string, log io.Writer) error {
	o, err := parseOptions(args, log)
	if err != nil {
		return err
	}
	if !supported {
		return errors.New("the comparison reads /proc and needs Linux")
	}
	chosen, err := choose(o.only)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "postern-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{options: o, dir: dir, cpus: runtime.NumCPU(), files: raiseFiles(4 * idleCount), log: log}
	missing, stop, err := b.prepare(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if o.profile != "" {
		return b.profile(ctx, &chosen[0])
	}
	report := b.newReport(ctx, missing)
	for i := range chosen {
		r, err := b.run(ctx, &chosen[i])
		if err != nil {
			return err
		}
		report.Rows = append(report.Rows, r)
	}
	report.Took = time.Since(report.Date).Round(time.Second).String()
	return report.write(o.out, o.name)
}

// prepare builds postern, finds the peers, makes the certificate and starts
// the backend, which stop ends.
func (b *bench) prepare(ctx context.Context) (missing map[string]string, stop func(), err error) {
	if b.root, err = moduleRoot(ctx); err != nil {
		return nil, nil, err
	}
	if b.options.out == "" {
		b.options.out = filepath.Join(b.root, "bench", "results")
	}
	postern := b.options.postern
	if postern == "" {
		if postern, err = buildPostern(ctx, b.root, b.dir); err != nil {
			return nil, nil, err
		}
	}
	if b.proxies, missing, err = locate(b.options.peers, postern); err != nil {
		return nil, nil, err
	}
	if c := b.proxies[0]; c.name == "postern" && b.options.postern == "" {
		c.about = "built from the commit above, " + runtime.Version()
	}
	for _, name := range slices.Sorted(maps.Keys(b.options.with)) {
		c := &contestant{peer: peerByName("postern"), path: b.options.with[name], about: "another build"}
		c.name = name
		b.proxies = append(b.proxies, c)
	}
	s := setup{
		Cert: filepath.Join(b.dir, "cert.pem"), Key: filepath.Join(b.dir, "key.pem"),
		Workers: 1, Files: int(b.files), Connections: min(idleCount+1000, int(b.files)/2-100),
		Root: os.Geteuid() == 0, Guard: true, Hosts: []string{"app." + domain},
	}
	if err := makeCertificate(s.Cert, s.Key); err != nil {
		return nil, nil, err
	}
	if s.Backend, stop, err = startBackend(ctx); err != nil {
		return nil, nil, err
	}
	b.common = s
	return missing, stop, nil
}

// rounds is how often a load is measured.
func (b *bench) rounds(l *load) int {
	if l.kind == measureMemory && b.options.quick {
		return 1
	}
	return b.options.rounds
}

// run measures one load on all proxies, which take turns.
func (b *bench) run(ctx context.Context, l *load) (*row, error) {
	r := &row{Load: l.name, What: l.what, Unit: l.unit, Kind: l.kind, Samples: make(map[string][]sample), Missing: make(map[string]string)}
	fmt.Fprintf(b.log, "%-16s", l.name)
	defer fmt.Fprintln(b.log)
	var turns []*running
	defer func() {
		for _, p := range turns {
			p.end()
		}
	}()
	for _, c := range b.proxies {
		p, err := b.launch(ctx, l, c, 0)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			r.Missing[c.name] = err.Error()
			fmt.Fprintf(b.log, "  [%v]", err)
			continue
		}
		turns = append(turns, p)
	}
	for round := range b.rounds(l) {
		for i := range turns { // whoever was first is last in the next round
			at := (i + round) % len(turns)
			p := turns[at]
			if l.kind == measureMemory && round > 0 { // what the last round left would count
				p.end()
				fresh, err := b.launch(ctx, l, p.contestant, round)
				if err != nil {
					return nil, err
				}
				p, turns[at] = fresh, fresh
			}
			s, err := b.measure(ctx, l, p)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				s = sample{CPU: math.NaN(), Error: err.Error()}
				fmt.Fprintf(b.log, "  [%s: %v]", p.name, err)
			}
			s.Error = firstLine(s.Error)
			r.Samples[p.name] = append(r.Samples[p.name], s)
		}
	}
	b.tell(l, r, turns)
	for name, samples := range r.Samples { // JSON has no NaN
		r.Samples[name] = slices.DeleteFunc(samples, func(s sample) bool { return math.IsNaN(s.CPU) })
		if len(r.Samples[name]) < len(samples) && r.Missing[name] == "" {
			r.Missing[name] = "a round without result: " + samples[len(samples)-1].Error
		}
	}
	return r, nil
}

// tell prints a load's result as it comes.
func (b *bench) tell(l *load, r *row, turns []*running) {
	for _, p := range turns {
		switch l.kind {
		case measureMemory:
			fmt.Fprintf(b.log, "  %s %.1f KB", p.name, median(r.of(p.name, func(s sample) float64 { return s.PerConn }))/1024)
		default:
			fmt.Fprintf(b.log, "  %s %.1f µs", p.name, median(r.of(p.name, func(s sample) float64 { return s.CPU })))
		}
		for _, s := range r.Samples[p.name] {
			if s.Failed > 0 {
				fmt.Fprintf(b.log, " (%d failed: %s)", s.Failed, s.Error)
				break
			}
		}
	}
}

func (b *bench) launch(ctx context.Context, l *load, c *contestant, round int) (*running, error) {
	s := b.common
	if l.setup != nil {
		l.setup(&s)
	}
	return launch(ctx, c, s, filepath.Join(b.dir, fmt.Sprintf("%s-%s-%d", l.name, c.name, round)))
}

// jobFor completes a load's job for a proxy.
func (b *bench) jobFor(l *load, p *running) *job {
	j := l.job
	j.Addr, j.CA = p.setup.clearAddr, p.setup.Cert
	if j.TLS {
		j.Addr = p.setup.httpsAddr
	}
	if j.Source == "" {
		j.Source = caller
	}
	j.Units = l.quick
	if !b.options.quick && l.kind == measureCPU {
		j.Units *= 4
	}
	j.Conns = min(j.Conns, p.setup.Connections)
	j.Warm = max(j.Conns, j.Units/8)
	if l.kind == measureMemory {
		j.Warm = j.Conns
	}
	return &j
}

// measure does a load once.
func (b *bench) measure(ctx context.Context, l *load, p *running) (sample, error) {
	idle, err := pssOf(p.pid())
	if err != nil {
		return sample{}, err
	}
	j := b.jobFor(l, p)
	work, err := startLoad(ctx, j)
	if err != nil {
		return sample{}, err
	}
	defer work.end()
	var full int64
	if l.kind == measureMemory {
		if full, err = settled(ctx, p); err != nil {
			return sample{}, err
		}
	}
	before, err := cpuOf(p.pid())
	if err != nil {
		return sample{}, err
	}
	if err := work.say("go"); err != nil {
		return sample{}, err
	}
	if l.kind == measureReload {
		if err := reloads(ctx, p); err != nil {
			return sample{}, err
		}
		if err := work.say("stop"); err != nil {
			return sample{}, err
		}
	}
	out, err := work.read()
	if err != nil {
		return sample{}, err
	}
	after, err := cpuOf(p.pid())
	if err != nil {
		return sample{}, err
	}
	s := sample{Units: out.Units, Failed: out.Failed, Retried: out.Retried, Error: out.Error, P50: out.P50, P99: out.P99}
	if out.Units == 0 {
		return sample{}, fmt.Errorf("no unit was done: %s", out.Error)
	}
	used := after.since(before)
	per := func(d time.Duration) float64 { return microseconds(d) / float64(out.Units) }
	s.CPU, s.User, s.System = per(used.total), per(used.user), per(used.system)
	s.Rate = float64(out.Units) / out.Seconds
	if l.kind == measureMemory {
		s.PSS, s.PerConn = full, float64(full-idle)/float64(j.Conns)
		return s, nil
	}
	s.PSS, err = pssOf(p.pid())
	return s, err
}

// settled waits three seconds, so that what the handshakes left behind can be
// given back, and returns the memory then.
func settled(ctx context.Context, p *running) (int64, error) {
	select {
	case <-time.After(3 * time.Second):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return pssOf(p.pid())
}

// reloads tells a proxy to reload, some times, a while apart.
func reloads(ctx context.Context, p *running) error {
	tick := time.NewTicker(400 * time.Millisecond)
	defer tick.Stop()
	for range reloadCount {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := p.cmd.Process.Signal(p.reload); err != nil {
			return err
		}
	}
	select {
	case <-tick.C:
	case <-ctx.Done():
	}
	return ctx.Err()
}

func firstLine(s string) string {
	for i, c := range s {
		if c == '\n' {
			return s[:i]
		}
	}
	return s
}
