package app

import (
	"context"
	"path/filepath"
	"time"

	"postern/internal/admin"
	"postern/internal/awsip"
	"postern/internal/config"
)

// newAWSRanges makes what knows the addresses of AWS, and tells the guard.
func (a *App) newAWSRanges(cfg *config.Config) {
	a.aws = awsip.New(awsip.Config{File: filepath.Join(cfg.Data, "aws-ranges.json"), Log: a.log, Metrics: a.registry})
	a.aws.Load()
	a.guard.SetShared(a.aws.Has)
}

// startAWSRanges has the list read daily while the configuration says so. It
// is called with a.mu held.
func (a *App) startAWSRanges() {
	switch on := a.cfg.Guard.AWSRanges == config.AWSRangesAuto && a.cfg.Guard.Mode != "off"; {
	case on && a.awsStop == nil:
		off, stop := context.WithCancel(context.Background()) // ends with stop, or with the group below
		a.awsStop = stop
		a.group.Go("addresses of AWS", func(ctx context.Context) error {
			defer stop()
			defer context.AfterFunc(ctx, stop)()
			return a.aws.Run(off)
		})
	case !on && a.awsStop != nil:
		a.awsStop()
		a.awsStop = nil
	}
}

// oldRanges is when a list that was not read again is worth a line.
const oldRanges = 14 * 24 * time.Hour

// guardNode is how the guard is doing.
func (a *App) guardNode(cfg *config.Config) admin.Node {
	n := admin.Node{Name: "guard", State: admin.OK, Detail: cfg.Guard.Mode}
	if addr, off := a.guard.BansOff(); off {
		n.Children = append(n.Children, admin.Node{Name: "bans", State: admin.Warn, Detail: "switched off: all clients come with the address " + addr.String() +
			", so a ban would shut out everybody; let the router or container pass their addresses on, or name the proxy in trusted_proxies"})
	}
	if st := a.aws.Status(); cfg.Guard.AWSRanges == config.AWSRangesAuto && st.Err != nil && time.Since(st.Read) > oldRanges {
		n.Children = append(n.Children, admin.Node{Name: "addresses of AWS", State: admin.Warn, Detail: "not read for long, an old list is used: " + st.Err.Error()})
	}
	return n
}
