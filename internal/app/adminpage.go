package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"postern/internal/admin"
	"postern/internal/config"
)

// adminDoor is the admin listener and its server.
type adminDoor struct {
	addr     string
	token    string
	listener net.Listener
	server   *admin.Server
	stop     context.CancelFunc // set when it runs
}

// prepareAdmin opens the admin listener if its settings changed.
func (a *App) prepareAdmin(cfg *config.Config, c *doorChange) error {
	token := cfg.Admin.Token.Reveal()
	if a.admin != nil && a.admin.addr == cfg.Admin.Listen && a.admin.token == token {
		return nil
	}
	if cfg.Admin.Listen == "" {
		c.noAdmin = a.admin != nil
		return nil
	}
	var l net.Listener
	var err error
	if a.admin != nil && a.admin.addr == cfg.Admin.Listen {
		return errors.New("admin.token: changed while admin.listen stays, and only a restart can change it")
	}
	if l, err = admin.Listen(cfg.Admin.Listen); err != nil {
		return fmt.Errorf("admin.listen %s: %w", cfg.Admin.Listen, err)
	}
	server, err := admin.New(admin.Config{
		Listener: l, Token: token, Gatherer: a.registry,
		Health: a.Health, Ready: a.Ready, Version: a.opt.Version, Log: a.log,
		Routes: a.adminRoutes(), Verbose: a.verbose,
		Tables: func() []admin.Table {
			return []admin.Table{certTable(a.certs.Status()), banTable(a.guard.Bans(time.Now()))}
		},
	})
	if err != nil {
		_ = l.Close()
		return err
	}
	c.admin = &adminDoor{addr: cfg.Admin.Listen, token: token, listener: l, server: server}
	return nil
}

// startAdmin runs the admin server, if there is one, until it is replaced.
func (a *App) startAdmin() {
	d := a.admin
	if d == nil {
		return
	}
	replaced, stop := context.WithCancel(context.Background()) // ends with the door, or with the group below
	d.stop = stop
	a.group.Go("admin "+d.addr, func(ctx context.Context) error {
		defer stop()
		defer context.AfterFunc(ctx, stop)()
		return d.server.Run(replaced)
	})
}

// AdminAddr is where the admin page listens, "" if it does not.
func (a *App) AdminAddr() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.admin == nil {
		return ""
	}
	if a.admin.listener.Addr().Network() == "unix" {
		return "unix:" + a.admin.listener.Addr().String()
	}
	return a.admin.listener.Addr().String()
}
