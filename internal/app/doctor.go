package app

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"postern/internal/admin"
	"postern/internal/config"
	"postern/internal/dnscheck"
	"postern/internal/doctor"
	"postern/internal/gateway"
	"postern/internal/notify"
)

// The doctor's times. A whole examination ends within examTime.
const (
	examTime  = 14 * time.Second
	examEvery = 5 * time.Minute
	examFirst = 20 * time.Second // after the start, when certificates and addresses have been looked at
)

// patient is what the doctor examines: a configuration, and the process that
// runs it if there is one.
type patient struct {
	cfg     *config.Config
	app     *App // nil: nobody runs, or not here
	machine machine
	look    func(context.Context, dnscheck.Question) dnscheck.Verdict

	gateRouter gateway.Router                                           // where the router is, when nobody runs; zero but in tests
	outside    func(ctx context.Context, port string) (net.Conn, error) // nil: the public address itself is dialled

	// Of one examination.
	atRouter *asked[gateway.Answer]
	looks    []*nameLook
}

func newPatient(cfg *config.Config, a *App) *patient {
	dns := dnsConfig(cfg, nil)
	dns.ReadOnly = true
	if a != nil {
		dns.Own = a.knownAddresses
	}
	return &patient{cfg: cfg, app: a, machine: thisMachine(), look: dnscheck.New(dns).Check}
}

// examine makes every check that the configuration gives a reason for.
func (p *patient) examine(ctx context.Context) doctor.Report {
	ctx, cancel := context.WithTimeout(ctx, examTime)
	defer cancel()
	p.atRouter, p.looks = nil, nil
	var list []doctor.Check
	list = append(list, p.configCheck())
	list = append(list, p.machineChecks()...)
	list = append(list, p.networkChecks()...)
	list = append(list, p.internetChecks()...)
	list = append(list, p.recordChecks()...)
	list = append(list, p.nameChecks()...)
	list = append(list, p.addressChecks()...)
	list = append(list, p.reachChecks()...)
	list = append(list, p.authorityChecks()...)
	list = append(list, p.certificateChecks()...)
	list = append(list, p.backendChecks()...)
	list = append(list, p.channelChecks()...)
	return doctor.Run(ctx, list)
}

// Examine looks at the machine, the network and everything cfg names, without
// a running postern, and takes at most 15 s.
func Examine(ctx context.Context, cfg *config.Config) doctor.Report {
	return newPatient(cfg, nil).examine(ctx)
}

// Unreadable is the report about a configuration that was refused: one FAIL
// and what else can be told without it.
func Unreadable(ctx context.Context, file string, err error) doctor.Report {
	p := &patient{cfg: &config.Config{}, machine: thisMachine()}
	list := []doctor.Check{{
		ID: "config", Component: "config", Target: file,
		Run: func(context.Context) doctor.Result {
			return doctor.Bad(correctFile, "%v", err)
		},
	}}
	return doctor.Run(ctx, append(list, p.networkChecks()...))
}

// RefusedFile puts into the report of a running postern that its file would be
// refused as it is now.
func RefusedFile(r doctor.Report, file string, err error) doctor.Report {
	bad := doctor.Bad(correctFile, "would be refused now: %v", err)
	finding := doctor.Finding{Component: "config", Target: file, Status: bad.Status, Detail: bad.Detail, Action: bad.Action}
	if i := slices.IndexFunc(r.Checks, func(f doctor.Finding) bool { return f.Component == "config" }); i >= 0 {
		r.Checks[i] = finding
	} else {
		r.Checks = slices.Insert(r.Checks, 0, finding)
	}
	return r
}

// correctFile is what to do about a file that is refused.
const correctFile = "correct the file; `proxy validate` lists every mistake with its line"

// AskDoctor has the running postern at its admin address examine itself. When
// nobody answers, NobodyAnswers tells.
func AskDoctor(ctx context.Context, addr, token string) (doctor.Report, error) {
	var r doctor.Report
	err := admin.Call(ctx, addr, token, http.MethodPost, "/doctor", &r)
	return r, err
}

func (p *patient) configCheck() doctor.Check {
	return doctor.Check{ID: "config", Component: "config", Target: p.cfg.File, Run: func(context.Context) doctor.Result {
		if p.app != nil {
			p.app.mu.Lock()
			r := p.app.reloaded
			p.app.mu.Unlock()
			if r.err != nil {
				return doctor.Odd("correct the file and reload again; the configuration before still runs", "the last reload was refused: %v", r.err)
			}
		}
		if n := len(p.cfg.Warnings); n > 0 {
			return doctor.Odd("`proxy validate` shows what the file hardly means", "%s", count(n, "warning"))
		}
		return doctor.OK("%s", Summary(p.cfg))
	}}
}

// doctorRoom keeps the running process's last examination, one at a time.
type doctorRoom struct {
	busy sync.Mutex           // held while examining, and guards told
	told map[string]time.Time // since when people know of what fails; as many as there are checks
	mu   sync.Mutex
	last doctor.Report
	at   time.Time // zero: none yet
}

// examineNow examines the process. Whoever comes while that is under way gets
// the result of the next one.
func (a *App) examineNow(ctx context.Context) doctor.Report {
	a.doctor.busy.Lock()
	defer a.doctor.busy.Unlock()
	a.mu.Lock()
	cfg := a.cfg
	a.mu.Unlock()
	next := newPatient(cfg, a).examine(ctx)
	if ctx.Err() != nil {
		return next // we are stopping, or the asker left: half a look is none
	}
	a.doctor.mu.Lock()
	prev, first := a.doctor.last, a.doctor.at.IsZero()
	a.doctor.last, a.doctor.at = next, time.Now()
	a.doctor.mu.Unlock()
	a.metrics.examined(next)
	if first {
		prev = doctor.Report{}
	}
	for _, f := range doctor.Changed(prev, next) {
		a.diagnosed(f)
	}
	return next
}

// diagnosed tells about a check whose status changed: the log about each, and
// people about those that nothing else tells them of.
func (a *App) diagnosed(f doctor.Finding) {
	facts := []any{"component", f.Component, "target", f.Target, "status", string(f.Status), "detail", f.Detail}
	if f.Action != "" {
		facts = append(facts, "action", f.Action)
	}
	if f.Status == doctor.Pass {
		a.log.Info("doctor: well again", facts...)
	} else {
		a.log.Warn("doctor: a link is broken", facts...)
	}
	if m, ok := a.doctor.message(f, time.Now()); ok {
		a.tell(m)
	}
}

// message is what people are told about a change: of what fails, and of its
// end.
func (d *doctorRoom) message(f doctor.Finding, now time.Time) (notify.Message, bool) {
	switch f.Component {
	case "router", "carrier NAT", "double NAT", "port mapping", "public address", "reached from outside",
		"data folder", "disk", "file descriptors":
	default:
		return notify.Message{}, false // the log, and what watches it all the time
	}
	name := strings.TrimSpace(f.Component + " " + f.Target)
	began, told := d.told[name]
	switch {
	case f.Status == doctor.Fail && !told:
		if d.told == nil {
			d.told = make(map[string]time.Time)
		}
		d.told[name] = now
		return notify.Message{Kind: notify.AddressTrouble, Args: map[string]string{"name": name, "sentence": f.Detail + "; " + f.Action}}, true
	case f.Status == doctor.Pass && told:
		delete(d.told, name)
		return notify.Message{Kind: notify.AddressWell, Args: map[string]string{"name": name, "lasted": lasted(now.Sub(began))}}, true
	}
	return notify.Message{}, false
}

// runDoctor examines the process every few minutes until ctx is done.
func (a *App) runDoctor(ctx context.Context) error {
	timer := time.NewTimer(examFirst)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			a.examineNow(ctx)
			timer.Reset(examEvery)
		}
	}
}

// lastExam is the last examination, and when it was; the zero time for none.
func (a *App) lastExam() (doctor.Report, time.Time) {
	a.doctor.mu.Lock()
	defer a.doctor.mu.Unlock()
	return a.doctor.last, a.doctor.at
}

// verbose is what /healthz?verbose tells.
func (a *App) verbose() any {
	r, at := a.lastExam()
	return struct {
		At time.Time `json:"at,omitzero"` // of the examination; left out: none yet
		doctor.Report
	}{at, r}
}

// doctorNode shows what the doctor found and no other node tells, so that one
// cause stays one red line.
func (a *App) doctorNode() admin.Node {
	n := admin.Node{Name: "doctor", State: admin.OK, Detail: "not looked yet"}
	r, at := a.lastExam()
	if at.IsZero() {
		return n
	}
	n.Detail = "all links well at " + at.Format("15:04:05")
	for _, f := range r.Checks {
		if f.Status != doctor.Warn && f.Status != doctor.Fail {
			continue
		}
		n.State, n.Detail = "", ""
		child := admin.Node{Name: f.Component, State: admin.Warn, Detail: f.Detail}
		if f.Target != "" {
			child.Name += " " + f.Target
		}
		if f.Action != "" {
			child.Detail = f.Detail + "; " + f.Action
		}
		n.Children = append(n.Children, child)
	}
	return n
}

// channelChecks tell how the ways to people are doing.
func (p *patient) channelChecks() []doctor.Check {
	if len(p.cfg.Notify) == 0 {
		return nil
	}
	if p.app == nil {
		return []doctor.Check{{Component: "messages", Run: func(context.Context) doctor.Result {
			return doctor.None("`proxy notify test` sends one to each channel")
		}}}
	}
	var out []doctor.Check
	for _, s := range p.app.outbox.Status() {
		out = append(out, doctor.Check{Component: "messages", Target: s.Name, Run: func(context.Context) doctor.Result {
			switch {
			case s.Disabled:
				return doctor.Bad("make a new webhook and set it in the file: this one is refused", "disabled until its configuration changes: %s", s.LastError)
			case s.Failing:
				return doctor.Odd("nothing to do: messages wait and are sent when it is back", "%s; next try %s", s.LastError, s.NextTry.Format("15:04:05"))
			}
			return doctor.OK("%s", s.Service)
		}})
	}
	return out
}
