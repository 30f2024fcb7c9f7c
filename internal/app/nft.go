package app

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"time"

	"postern/internal/admin"
	"postern/internal/config"
	"postern/internal/guard"
	"postern/internal/nft"
)

// kernelDrop has the kernel drop what is banned, while guard.kernel says so.
type kernelDrop struct {
	drop *nft.Drop
	stop context.CancelFunc // nil while it is off
}

// newKernelDrop makes it; startKernelDrop starts it.
func (a *App) newKernelDrop() {
	// A ban next to an address that is never banned, or is AWS's, in the same
	// /64 say, is for the guard alone.
	spares := func(p netip.Prefix) bool { return a.guard.Spares(p, time.Now()) || a.aws.Overlaps(p) }
	a.kernel = &kernelDrop{drop: nft.New(nft.Config{
		Bans: a.droppable, Spares: spares, Log: a.log, Registerer: a.registry,
	})}
}

// startKernelDrop brings it in line with the configuration and the listeners.
// It is called with a.mu held.
func (a *App) startKernelDrop() {
	k := a.kernel
	k.drop.SetPorts(a.ports("http", "https"), a.ports("h3"))
	k.drop.Resync()
	switch on := a.cfg.Guard.Kernel == config.KernelNFT; {
	case on && k.stop == nil:
		off, stop := context.WithCancel(context.Background()) // ends with stop, or with the group below
		k.stop = stop
		a.group.Go("kernel drop", func(ctx context.Context) error {
			defer stop()
			defer context.AfterFunc(ctx, stop)()
			return k.drop.Run(off)
		})
	case !on && k.stop != nil:
		k.stop()
		k.stop = nil
	}
}

// kernelEvent brings the kernel in line with what the guard tells, on a
// request's path.
func (a *App) kernelEvent(e guard.Event) {
	switch e.Kind {
	case guard.EventBan:
		if e.Ban.Drop {
			a.kernel.drop.Put(nft.Ban{Prefix: e.Ban.Prefix, Until: e.Ban.Until})
		}
	case guard.EventUnban, guard.EventBansOff, guard.EventBansOn:
		a.kernel.drop.Resync()
	}
}

// droppable are the bans that the kernel may enforce.
func (a *App) droppable() []nft.Ban {
	var out []nft.Ban
	for _, b := range a.guard.Drops(time.Now()) {
		out = append(out, nft.Ban{Prefix: b.Prefix, Until: b.Until})
	}
	return out
}

// ports are those of the open listeners of some kinds.
func (a *App) ports(kinds ...string) []uint16 {
	var out []uint16
	for _, kind := range kinds {
		for _, addr := range a.addrsLocked(kind) {
			_, p, err := net.SplitHostPort(addr)
			if err != nil {
				continue
			}
			if n, err := strconv.ParseUint(p, 10, 16); err == nil {
				out = append(out, uint16(n))
			}
		}
	}
	return out
}

// kernelNode is how the kernel drop is doing; nil while it is off.
func (a *App) kernelNode(cfg *config.Config) []admin.Node {
	if cfg.Guard.Kernel != config.KernelNFT {
		return nil
	}
	n := admin.Node{Name: "kernel drop", State: admin.OK}
	switch s := a.kernel.drop.Status(); {
	case s.Active:
		n.Detail = strconv.Itoa(s.Banned) + " banned, " + strconv.FormatUint(s.Dropped, 10) + " packets dropped"
	case s.Err != nil:
		n.State, n.Detail = admin.Warn, s.Err.Error()
	default:
		n.State, n.Detail = admin.Warn, "not set up yet"
	}
	return []admin.Node{n}
}
