package app

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"postern/internal/admin"
	"postern/internal/tlsmgr"
	"postern/internal/upstream"
)

// Ready returns nil while requests are accepted.
func (a *App) Ready() error {
	a.mu.Lock()
	doors := len(a.doors)
	a.mu.Unlock()
	switch {
	case a.proxy.Draining():
		return errors.New("draining")
	case doors == 0:
		return errors.New("no listener")
	}
	return nil
}

// Health is the tree of what this process stands on, one cause one red line.
func (a *App) Health() admin.Node {
	a.mu.Lock()
	b, reloaded, cfg := a.built, a.reloaded, a.cfg
	a.mu.Unlock()
	root := admin.Node{Name: "postern", Detail: a.opt.Version, Since: a.started}
	root.Children = append(root.Children, a.listenersNode(), configNode(reloaded), certificatesNode(a.certs.Status()), authoritiesNode(a.certs.Authorities()), callersNode(a.callers, time.Now()), backendsNode(b), notifyNode(a.outbox.Status()), a.doctorNode(), a.guardNode(cfg), a.tasksNode())
	root.Children = append(root.Children, a.kernelNode(cfg)...)
	root.Children = append(root.Children, a.feedsNode()...)
	root.Children = append(root.Children, a.routerNode()...)
	root.Children = append(root.Children, a.addressNode(cfg)...)
	return root
}

func (a *App) listenersNode() admin.Node {
	n := admin.Node{Name: "listeners"}
	for _, kind := range []string{"http", "https"} {
		for _, addr := range a.Addrs(kind) {
			n.Children = append(n.Children, admin.Node{Name: kind, State: admin.OK, Detail: addr})
		}
	}
	if a.proxy.Draining() {
		n.State, n.Detail = admin.Warn, "draining: no new connections"
	}
	return n
}

func configNode(r reloadResult) admin.Node {
	n := admin.Node{Name: "configuration", State: admin.OK}
	switch {
	case r.err != nil:
		n.State, n.Since = admin.Warn, r.at
		n.Detail = "the last reload was refused, the one before still runs: " + r.err.Error()
	case !r.at.IsZero():
		n.Detail = "reloaded " + clock(r.at)
	}
	return n
}

func certificatesNode(certs []tlsmgr.CertStatus) admin.Node {
	n := admin.Node{Name: "certificates"}
	if len(certs) == 0 {
		n.State, n.Detail = admin.OK, "none needed"
	}
	for _, c := range certs {
		n.Children = append(n.Children, certNode(c))
	}
	return n
}

// authoritiesNode is a warning when one does not work: what is held is served
// all the same, and another one may take its place.
func authoritiesNode(list []tlsmgr.AuthorityStatus) admin.Node {
	n := admin.Node{Name: "authorities"}
	if len(list) == 0 {
		n.State, n.Detail = admin.OK, "none needed"
	}
	for _, a := range list {
		child := admin.Node{Name: a.Name, State: admin.OK}
		if a.State != tlsmgr.StateOK {
			child.State, child.Since, child.Detail = admin.Warn, a.Since, a.State+": "+a.LastError
			if !a.NextTry.IsZero() {
				child.Detail += "; asked again " + a.NextTry.Format("2006-01-02 15:04:05")
			}
		}
		n.Children = append(n.Children, child)
	}
	return n
}

func certNode(c tlsmgr.CertStatus) admin.Node {
	n := admin.Node{Name: c.Name, State: admin.Fail}
	switch {
	case c.State == tlsmgr.StateOK:
		n.State = admin.OK
	case c.State == tlsmgr.StateExpiring:
		n.State = admin.Warn
	case c.State == tlsmgr.StateMissing && c.LastError == "" && c.Sentence == "":
		n.State, n.Detail = admin.Warn, "no certificate yet, the first attempt is under way"
	}
	if !c.NotAfter.IsZero() {
		n.Detail = fmt.Sprintf("until %s, %s", c.NotAfter.Format("2006-01-02 15:04"), c.Issuer)
	}
	if c.Sentence != "" && n.State == admin.OK {
		n.State = admin.Warn // what is held is good, but a new one would not come
	}
	if n.State != admin.OK && (c.Sentence != "" || c.LastError != "") {
		n.Since = c.Since
		switch {
		case c.Sentence == "":
			n.Detail = c.LastError
		case c.LastError != "" && c.Verdict != "red":
			n.Detail = c.Sentence + " (" + c.LastError + ")"
		default:
			n.Detail = c.Sentence
		}
		if !c.NextAttempt.IsZero() {
			n.Detail += "; next attempt " + c.NextAttempt.Format("2006-01-02 15:04:05")
		}
	}
	return n
}

func backendsNode(b *built) admin.Node {
	n := admin.Node{Name: "backends"}
	for i := range b.snapshot.Sites {
		for j := range b.snapshot.Sites[i].Routes {
			rt := &b.snapshot.Sites[i].Routes[j]
			if rt.Upstream == nil {
				continue
			}
			n.Children = append(n.Children, routeNode(b.snapshot.Sites[i].Name+rt.Name, rt.Upstream.Status()))
		}
	}
	if len(n.Children) == 0 {
		n.State, n.Detail = admin.OK, "none"
	}
	return n
}

func (a *App) tasksNode() admin.Node {
	n := admin.Node{Name: "tasks"}
	for _, t := range a.group.Tasks() {
		if t.Running && t.Restarts == 0 {
			continue
		}
		child := admin.Node{Name: t.Name, State: admin.Warn, Since: t.Since, Detail: fmt.Sprintf("restarted %d times", t.Restarts)}
		if !t.Running {
			child.State = admin.Fail
		}
		if t.Err != nil {
			child.Detail += ": " + t.Err.Error()
		}
		n.Children = append(n.Children, child)
	}
	if len(n.Children) == 0 {
		n.State, n.Detail = admin.OK, "all running"
	}
	return n
}

// routeNode is red when no backend of a route is up, and a warning when some
// are down.
func routeNode(name string, targets []upstream.TargetStatus) admin.Node {
	n := admin.Node{Name: name, State: admin.OK}
	down := 0
	for _, t := range targets {
		if t.Up {
			continue
		}
		down++
		n.Since = t.Since
		n.Detail = t.LastError
		if !strings.HasPrefix(n.Detail, t.Target) {
			n.Detail = t.Target + ": " + n.Detail
		}
	}
	switch {
	case down == 0:
		n.Detail = count(len(targets), "backend")
	case down == len(targets):
		n.State = admin.Fail
	default:
		n.State = admin.Warn
	}
	return n
}
