package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"postern/internal/doctor"
)

// machine is what the doctor asks of the operating system. Each func returns
// errUnknown where this system does not tell.
type machine struct {
	addrs  func() ([]netip.Addr, error)       // of interfaces that are up, without loopback
	gate   func() (netip.Addr, string, error) // the default gateway and its interface; invalid: there is none
	synced func() (bool, error)               // whether a time service keeps the clock
	disk   func(dir string) (free, all uint64, err error)
	memory func() (free, all uint64, err error) // what may be used without swapping
	files  func() (open, limit int, err error)  // descriptors of this process
}

var errUnknown = errors.New("this system does not tell")

func thisMachine() machine {
	return machine{addrs: linkAddrs, gate: defaultGateway, synced: clockSynced, disk: diskSpace, memory: memoryLeft, files: openFiles}
}

// linkAddrs are the addresses of interfaces that are up and lead somewhere.
func linkAddrs() ([]netip.Addr, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, i := range list {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		nets, err := i.Addrs()
		if err != nil {
			continue // it went away meanwhile
		}
		for _, n := range nets {
			if p, err := netip.ParsePrefix(n.String()); err == nil {
				out = append(out, p.Addr().Unmap())
			}
		}
	}
	return out, nil
}

// Below these the doctor warns.
const (
	littleDisk   = 100 << 20
	littleMemory = 32 << 20
)

func (p *patient) machineChecks() []doctor.Check {
	checks := []doctor.Check{
		{ID: "data", Component: "data folder", Target: p.cfg.Data, Run: p.dataFolder},
		{ID: "clock", Component: "clock", Run: p.clock},
		{Component: "disk", Target: p.cfg.Data, Needs: []string{"data"}, Run: p.diskSpace},
		{Component: "memory", Run: p.memory},
	}
	if p.app != nil {
		checks = append(checks, doctor.Check{Component: "file descriptors", Run: p.descriptors})
	}
	return checks
}

// dataFolder is looked at without changing it, unless it is ours already: a
// start makes it.
func (p *patient) dataFolder(context.Context) doctor.Result {
	dir := p.cfg.Data
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && p.app == nil:
		return doctor.None("not there yet; the first start makes it")
	case err != nil:
		return doctor.Bad("make the folder and give it to the user postern runs as, or set data: to another", "%v", err)
	case !info.IsDir():
		return doctor.Bad("remove the file, or set data: to another folder", "%s is a file, want a folder", dir)
	}
	if err := probeWrite(dir); err != nil {
		return doctor.Bad(fmt.Sprintf("give the folder to the user postern runs as (this is uid %d), or remount it writable", os.Getuid()), "not writable: %v", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return doctor.Odd("chmod 700 "+dir, "other users of this machine may look into it (mode %04o): it holds private keys", info.Mode().Perm())
	}
	return doctor.OK("writable, and ours alone")
}

// probeWrite writes a file of its own and takes it away again.
func probeWrite(dir string) error {
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return err
	}
	_, werr := f.WriteString("x")
	cerr := f.Close()
	return errors.Join(werr, cerr, os.Remove(filepath.Join(dir, filepath.Base(f.Name()))))
}

func (p *patient) clock(context.Context) doctor.Result {
	synced, err := p.machine.synced()
	switch {
	case errors.Is(err, errUnknown):
		return doctor.None("%v", err)
	case err != nil:
		return doctor.Odd("look with `timedatectl`", "the kernel does not say whether it is set: %v", err)
	case !synced:
		return doctor.Odd("start a time service (`timedatectl set-ntp true`): certificates and signed requests are judged by the clock", "no time service keeps it")
	}
	return doctor.OK("kept by a time service")
}

func (p *patient) diskSpace(context.Context) doctor.Result {
	free, all, err := p.machine.disk(p.cfg.Data)
	switch {
	case errors.Is(err, errUnknown), errors.Is(err, fs.ErrNotExist):
		return doctor.None("%v", err)
	case err != nil:
		return doctor.Odd("look with `df`", "%v", err)
	case free < 1<<20:
		return doctor.Bad("make room: certificates cannot be stored", "%s free of %s", size(free), size(all))
	case free < littleDisk:
		return doctor.Odd("make room before it is full: certificates are stored there", "%s free of %s", size(free), size(all))
	}
	return doctor.OK("%s free of %s", size(free), size(all))
}

func (p *patient) memory(context.Context) doctor.Result {
	free, all, err := p.machine.memory()
	switch {
	case errors.Is(err, errUnknown):
		return doctor.None("%v", err)
	case err != nil:
		return doctor.Odd("look with `free -m`", "%v", err)
	case free < littleMemory:
		return doctor.Odd("end what needs it, or lower limits.connections: the kernel may end postern", "%s left of %s", size(free), size(all))
	}
	return doctor.OK("%s left of %s", size(free), size(all))
}

func (p *patient) descriptors(context.Context) doctor.Result {
	open, limit, err := p.machine.files()
	switch {
	case errors.Is(err, errUnknown):
		return doctor.None("%v", err)
	case err != nil:
		return doctor.Odd("look with `ls /proc/PID/fd`", "%v", err)
	case open > limit*9/10:
		return doctor.Bad("raise LimitNOFILE= in the service's unit, or lower limits.connections", "%d of %d in use", open, limit)
	case limit < 1024+p.cfg.Limits.Connections:
		return doctor.Odd(fmt.Sprintf("raise LimitNOFILE= in the service's unit to %d", 2*p.cfg.Limits.Connections+1024), "%d of %d in use; limits.connections %d may need two each", open, limit, p.cfg.Limits.Connections)
	}
	return doctor.OK("%d of %d in use", open, limit)
}

// size is n bytes for people.
func size(n uint64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GB", n>>30)
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%d MB", n>>20)
}

func (p *patient) networkChecks() []doctor.Check {
	return []doctor.Check{
		{ID: "link", Component: "link", Run: p.link},
		{ID: "route", Component: "default route", Needs: []string{"link"}, Run: p.defaultRoute},
		{ID: "ipv6", Component: "IPv6", Needs: []string{"link"}, Run: p.ipv6},
	}
}

func (p *patient) link(context.Context) doctor.Result {
	addrs, err := p.machine.addrs()
	if err != nil {
		return doctor.Odd("look with `ip addr`", "%v", err)
	}
	for _, a := range addrs {
		if a.IsGlobalUnicast() {
			return doctor.OK("%s", joinAddrs(addrs))
		}
	}
	return doctor.Bad("plug the network cable in, or join the wireless network; then look with `ip addr`", "no interface is up with an address")
}

func (p *patient) defaultRoute(context.Context) doctor.Result {
	gate, dev, err := p.machine.gate()
	switch {
	case errors.Is(err, errUnknown):
		return doctor.None("%v", err)
	case err != nil:
		return doctor.Odd("look with `ip route`", "%v", err)
	case !gate.IsValid():
		return doctor.Bad("set the router as default gateway, by DHCP or by hand; look with `ip route`", "none: nothing outside of this network can be reached")
	}
	return doctor.OK("%s through %s", gate, dev)
}

func (p *patient) ipv6(context.Context) doctor.Result {
	addrs, err := p.machine.addrs()
	if err != nil {
		return doctor.None("%v", err)
	}
	for _, a := range addrs {
		if a.Is6() && a.IsGlobalUnicast() && !a.IsPrivate() {
			return doctor.OK("%s", a)
		}
	}
	return doctor.None("no public address; IPv4 alone is fine")
}

// joinAddrs lists what is more than link-local.
func joinAddrs(addrs []netip.Addr) string {
	text := ""
	for _, a := range addrs {
		if !a.IsGlobalUnicast() {
			continue
		}
		if text != "" {
			text += ", "
		}
		text += a.String()
	}
	return text
}
