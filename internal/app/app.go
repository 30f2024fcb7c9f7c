// Package app builds the process from a configuration, starts it, reloads it
// and stops it. It is the only place that knows every other package.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"postern/internal/awsip"
	"postern/internal/caller"
	"postern/internal/config"
	"postern/internal/ddns"
	"postern/internal/feeds"
	"postern/internal/gateway"
	"postern/internal/guard"
	"postern/internal/notify"
	"postern/internal/proxy"
	"postern/internal/publish"
	"postern/internal/service"
	"postern/internal/tlsmgr"
	"postern/internal/upstream"
)

// stopSlack is what stopping may take beyond the grace of requests in flight:
// writing bans, ending the certificate manager.
const stopSlack = 5 * time.Second

// Options is what the process has besides its configuration.
type Options struct {
	// Version is told on the admin page and in the build metric.
	Version string

	// Log is where the log goes. Nil: standard error.
	Log io.Writer

	// Load reads the configuration again, for Reload. Nil: there is no file
	// to read, and Reload says so.
	Load func() (*config.Config, error)

	// Router says where the home router is. The zero value is right but in
	// tests.
	Router gateway.Router

	// Notify tells the service manager a state (sd_notify(3)). Nil: nobody
	// listens. It must not block.
	Notify func(state string)
}

// App is one running postern. Make it with New, which opens the listeners;
// Run serves until its context ends. Reload may be called at any time.
type App struct {
	opt      Options
	logs     *logs
	log      *slog.Logger
	registry *prometheus.Registry
	started  time.Time

	guard     *guard.Guard
	kernel    *kernelDrop
	feeds     *feeds.Lists
	aws       *awsip.Ranges
	awsStop   context.CancelFunc // guarded by mu; nil while the list is not read
	callers   *caller.Registry
	address   *ddns.Manager
	certs     *tlsmgr.Manager
	proxy     *proxy.Server
	group     *service.Group
	metrics   *appMetrics
	outbox    *notify.Outbox
	publisher *publish.Publisher
	believed  atomic.Pointer[ddns.Addresses] // what was told last; nil: nothing yet

	// onGuard are told of what the guard sees, on the path of requests: they
	// must not block. Set before Run.
	onGuard []func(guard.Event)
	gateway *gateway.Client

	// routerWoes is what people were told of, by name. Only gatewayChanged
	// uses it, which is called by one at a time.
	routerWoes map[string]time.Time

	// onAddress are told of changes of the public address, onDNSHost of
	// trouble at DNS hosts. They must not block. Set before Run.
	onAddress []func(old, now ddns.Addresses)
	onDNSHost []func(ddns.Notice)

	mu       sync.Mutex // one New, Reload or stop at a time
	cfg      *config.Config
	built    *built
	watch    upstream.Watch // of the backends in built
	doors    map[doorKey]*door
	leaving  map[doorKey]*proxy.QUICListener // closed, perhaps with requests in flight
	admin    *adminDoor
	reloaded reloadResult
	dns01    dns01
	doctor   doctorRoom
	nonces   nonces
	once     onceStores // live through reloads
	senders  []sender   // of the outbox's channels
}

type reloadResult struct {
	at  time.Time
	err error
}

// New builds everything that can fail and opens the listeners, without
// serving yet. An error means that the start is refused: nothing is left
// behind. The caller must call Run, or Close if it does not.
func New(cfg *config.Config, opt Options) (_ *App, err error) {
	if opt.Log == nil {
		opt.Log = os.Stderr
	}
	a := &App{opt: opt, cfg: cfg, started: time.Now(), doors: make(map[doorKey]*door), leaving: make(map[doorKey]*proxy.QUICListener)}
	if a.logs, err = newLogs(cfg.Log, opt.Log); err != nil {
		return nil, err
	}
	a.log = a.logs.logger()
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	a.registry = newRegistry(opt.Version)
	a.once = newOnceStores(a.registry)
	a.metrics = newAppMetrics(a.registry)
	a.registry.MustRegister(a.logs.spool.dropped)
	if err := ensureData(cfg.Data); err != nil {
		return nil, err
	}
	a.outbox = a.newOutbox(cfg)
	if a.senders, err = senders(cfg, nil); err != nil {
		return nil, err
	}
	a.outbox.SetChannels(channels(a.senders))
	a.onGuard = append(a.onGuard, a.guardTold)
	a.onAddress = append(a.onAddress, a.addressTold)
	a.onDNSHost = append(a.onDNSHost, a.dnsHostTold)
	guardCfg, err := guardConfig(cfg)
	if err != nil {
		return nil, err
	}
	guardCfg.Log, guardCfg.Metrics, guardCfg.OnEvent = a.log, a.registry, a.guardEvent
	a.guard = guard.New(guardCfg)
	a.guard.SetOwn(ownAddresses())
	a.newKernelDrop()
	a.newFeeds(cfg)
	a.newAWSRanges(cfg)
	a.guard.Load(a.started)
	if err := a.openCallers(cfg); err != nil {
		return nil, err
	}
	check := a.newChecker(cfg)
	if err := a.newAddresses(cfg, check); err != nil {
		return nil, err
	}
	a.newPublisher()
	publishAt, err := a.publisher.Prepare(publishTargets(cfg))
	if err != nil {
		return nil, err
	}
	publishAt()
	tlsCfg, err := a.tlsConfig(cfg, check)
	if err != nil {
		return nil, err
	}
	tlsCfg.Log, tlsCfg.Registerer = a.log, a.registry
	if a.certs, err = tlsmgr.New(tlsCfg); err != nil {
		return nil, err
	}
	if err := a.openDoors(cfg); err != nil {
		return nil, err
	}
	if err := a.newGateway(cfg); err != nil {
		return nil, err
	}
	if a.built, err = build(cfg, nil, a.buildParts(cfg)); err != nil {
		return nil, err
	}
	a.proxy, err = proxy.New(proxy.Config{
		Log: a.log, Registerer: a.registry, Guard: a.guard,
		TLS: a.certs.TLSConfig(), Challenge: a.challenge,
	}, a.built.snapshot)
	if err != nil {
		return nil, err
	}
	a.useCallers(a.built.snapshot)
	if err := a.certs.SetChallengeAddrs(a.challengeAddrs()); err != nil {
		return nil, err
	}
	a.group = service.New(a.log)
	return a, nil
}

// LibraryLog is where package log should print for this App: some libraries
// know no other log. Lines go to the log at debug.
func (a *App) LibraryLog() io.Writer { return a.logs.libraries() }

// Close releases what New opened, when Run will not be called.
func (a *App) Close() {
	for _, d := range a.doors {
		_ = d.listener.Close()
	}
	if a.admin != nil {
		_ = a.admin.listener.Close()
	}
	if a.built != nil {
		a.built.close()
	}
	if a.certs != nil {
		a.certs.Close()
	}
	if a.logs != nil {
		_ = a.logs.Close()
	}
}

// Run serves until ctx is done, then drains for the configured grace. It
// returns nil after such an end, and the cause when an essential part failed.
func (a *App) Run(ctx context.Context) error {
	a.mu.Lock()
	g := a.group
	g.StopWithin(a.cfg.Grace + stopSlack)
	g.OnStop("log", func(context.Context) error { return a.logs.Close() })
	g.Keep("access log", a.logs.spool.run)
	a.startNotify()
	g.OnStop("certificates", func(context.Context) error { a.certs.Close(); return nil })
	g.OnStop("backends", func(context.Context) error { a.closeBuilt(); return nil })
	a.watch.Set(a.built.watched())
	g.Keep("backends", a.watch.Run)
	g.Keep("bans", a.guard.Run)
	g.Keep("feeds", a.feeds.Run)
	g.Keep("callers", a.callers.Run)
	g.Keep("publish", a.publisher.Run)
	g.Keep("certificates", a.certs.Run)
	g.Keep("look-out", a.lookOut)
	a.setGateway()
	g.Keep("router", a.gateway.Run)
	g.Keep("addresses", a.address.Run)
	g.Keep("doctor", a.runDoctor)
	a.startAdmin()
	a.startKernelDrop()
	a.startAWSRanges()
	g.OnStop("drain", a.drain)
	for _, d := range a.doors {
		a.startDoor(d)
	}
	a.mu.Unlock()
	g.Go("ready", func(ctx context.Context) error { return a.announce(ctx) })
	if err := g.Run(ctx); err != nil {
		return err
	}
	a.log.Info("stopped")
	return nil
}

// announce tells the service manager that we serve, and that we stop.
func (a *App) announce(ctx context.Context) error {
	a.notify("READY=1")
	facts := []any{"http", a.Addrs("http"), "https", a.Addrs("https"), "admin", a.AdminAddr(), "sites", len(a.cfg.Sites), "started_in_ms", time.Since(a.started).Milliseconds()}
	if h3 := a.Addrs("h3"); len(h3) > 0 {
		facts = append(facts, "h3", h3)
	}
	a.log.Info("serving", facts...)
	a.tell(notify.Message{Kind: notify.Started, Args: map[string]string{"version": a.opt.Version}})
	if interval := watchdogInterval(); interval > 0 {
		tick := time.NewTicker(interval / 2)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				a.notify("STOPPING=1")
				return nil
			case <-tick.C:
				a.notify("WATCHDOG=1")
			}
		}
	}
	<-ctx.Done()
	a.notify("STOPPING=1")
	return nil
}

func (a *App) notify(state string) {
	if a.opt.Notify != nil {
		a.opt.Notify(state)
	}
}

// drain lets requests in flight finish.
func (a *App) drain(ctx context.Context) error {
	a.mu.Lock()
	grace := a.cfg.Grace
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	a.log.Info("draining", "grace", grace.String())
	if cut := a.proxy.Shutdown(ctx); cut > 0 {
		a.log.Warn("connections cut at the end of the grace period", "connections", cut)
	}
	return nil
}

func (a *App) closeBuilt() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.built.close()
}

// Reload reads the configuration again and makes it the running one. On an
// error nothing has changed.
func (a *App) Reload() error {
	if a.opt.Load == nil {
		return errors.New("reload: started without a configuration file, so there is nothing to read again")
	}
	a.notify(reloadingState())
	defer a.notify("READY=1")
	cfg, err := a.opt.Load()
	if err == nil {
		err = a.apply(cfg)
	}
	a.mu.Lock()
	a.reloaded = reloadResult{at: time.Now(), err: err}
	a.mu.Unlock()
	a.metrics.reload(err)
	if err != nil {
		a.log.Error("reload refused, the running configuration stays", "err", err)
		a.tell(notify.Message{Kind: notify.ReloadRefused, Args: map[string]string{"sentence": err.Error()}})
		return err
	}
	a.log.Info("reloaded", "sites", len(cfg.Sites))
	return nil
}

// apply does everything that can fail, then swaps.
func (a *App) apply(cfg *config.Config) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := unchangeable(a.cfg, cfg); err != nil {
		return err
	}
	guardCfg, err := guardConfig(cfg)
	if err != nil {
		return err
	}
	publishAt, err := a.publisher.Prepare(publishTargets(cfg))
	if err != nil {
		return err
	}
	logs, err := a.logs.prepare(cfg.Log)
	if err != nil {
		return err
	}
	out, err := senders(cfg, a.senders)
	if err != nil {
		logs.discard()
		return err
	}
	next, err := build(cfg, a.built, a.buildParts(cfg))
	if err != nil {
		logs.discard()
		return err
	}
	opened, err := a.prepareDoors(cfg)
	if err == nil {
		var addresses func()
		check := a.newChecker(cfg)
		if addresses, err = a.address.Prepare(a.addressConfig(cfg, check)); err == nil {
			err = a.applyTLS(cfg, check)
		}
		if err != nil {
			opened.discard()
		} else {
			addresses()
		}
	}
	if err != nil {
		logs.discard()
		next.closeNew(a.built)
		return err
	}
	// Nothing below refuses any more.
	logs.commit()
	old := a.built
	a.cfg, a.built, a.senders = cfg, next, out
	a.outbox.SetChannels(channels(out))
	a.commitDoors(opened)
	next.snapshot.HTTPSPort = a.httpsPort()
	a.setGateway()
	a.guard.Reconfigure(guardCfg)
	a.spareOwn()
	a.startKernelDrop()
	a.startAWSRanges()
	a.applyFeeds(cfg)
	a.proxy.Apply(next.snapshot)
	a.useCallers(next.snapshot)
	publishAt()
	a.watch.Set(next.watched())
	old.retire(next)
	a.group.StopWithin(cfg.Grace + stopSlack)
	return a.certs.SetChallengeAddrs(a.challengeAddrs())
}

// unchangeable refuses what only a restart can change.
func unchangeable(old, next *config.Config) error {
	var errs []error
	restart := func(key string) {
		errs = append(errs, fmt.Errorf("%s: changed, and only a restart can change it", key))
	}
	if old.Data != next.Data {
		restart("data")
	}
	if old.Limits.Header != next.Limits.Header {
		restart("limits.header")
	}
	if old.Limits.HeaderTimeout != next.Limits.HeaderTimeout {
		restart("limits.header_timeout")
	}
	if old.Limits.CallerIdleTimeout != next.Limits.CallerIdleTimeout && next.HTTP3 {
		restart("limits.caller_idle_timeout")
	}
	if old.Limits.IdleTimeout != next.Limits.IdleTimeout {
		restart("limits.idle_timeout")
	}
	if old.Guard.Bans.Keep != next.Guard.Bans.Keep {
		restart("guard.bans.keep")
	}
	return errors.Join(errs...)
}
