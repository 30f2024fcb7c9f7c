package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"postern/internal/admin"
	"postern/internal/config"
	"postern/internal/dnscheck"
	"postern/internal/tlsmgr"
)

// Cert is one certificate as the private API and `proxy certs list --json`
// tell it. Scripts read this: names and words stay. Times that are not known
// are left out.
type Cert struct {
	Name   string `json:"name"`
	Source string `json:"source"` // acme, local or file
	State  string `json:"state"`  // ok, missing, expiring or expired

	Issuer    string    `json:"issuer,omitempty"`
	Key       string    `json:"key,omitempty"`
	Serial    string    `json:"serial,omitempty"` // hexadecimal
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`

	RenewAt      time.Time `json:"renew_at,omitzero"`       // when a new one is due
	NextTry      time.Time `json:"next_try,omitzero"`       // when it is tried; while the DNS is red, when that is looked at again
	Waiting      string    `json:"waiting,omitempty"`       // the kind of what holds it up, such as dns or budget
	AttemptsLeft *int      `json:"attempts_left,omitempty"` // of this hour; left out: not limited

	Verdict      string    `json:"verdict,omitempty"` // of the DNS: green, amber or red
	VerdictSince time.Time `json:"verdict_since,omitzero"`
	Sentence     string    `json:"sentence,omitempty"` // what is wrong, for people
	Since        time.Time `json:"since,omitzero"`     // that

	LastAttempt time.Time `json:"last_attempt,omitzero"`
	LastError   string    `json:"last_error,omitempty"` // in the authority's own words
	Meaning     string    `json:"meaning,omitempty"`    // the same for people
	LastErrorAt time.Time `json:"last_error_at,omitzero"`

	Renewal *Renewal `json:"renewal,omitempty"` // the last that was asked for by hand
}

// Renewal is what became of `proxy certs renew`.
type Renewal struct {
	Asked   time.Time `json:"asked"`
	Forced  bool      `json:"forced"`
	Ended   time.Time `json:"ended,omitzero"`    // left out: under way
	Refused string    `json:"refused,omitempty"` // why no attempt was made, with the way out
	Error   string    `json:"error,omitempty"`   // of the attempt; with neither, once ended there is a new certificate
	Meaning string    `json:"meaning,omitempty"` // the same for people
}

func newCert(s *tlsmgr.CertStatus) Cert {
	c := Cert{
		Name: s.Name, Source: s.Source, State: s.State,
		Issuer: s.Issuer, Key: s.KeyType, Serial: s.Serial, NotBefore: s.NotBefore, NotAfter: s.NotAfter,
		RenewAt: s.RenewAt, NextTry: s.NextAttempt, Waiting: s.Waiting,
		Verdict: s.Verdict, VerdictSince: s.VerdictSince, Sentence: s.Sentence, Since: s.Since,
		LastAttempt: s.LastAttempt, LastError: s.LastError, Meaning: s.Meaning, LastErrorAt: s.LastErrorAt,
	}
	if s.AttemptsLeft >= 0 {
		c.AttemptsLeft = &s.AttemptsLeft
	}
	if c.NextTry.IsZero() && s.Waiting == "" {
		c.NextTry = s.RenewAt
	}
	if r := s.Renewal; r != nil {
		c.Renewal = &Renewal{Asked: r.Asked, Forced: r.Forced, Ended: r.Ended, Error: r.Err, Meaning: r.Means}
		if r.Refused != nil {
			c.Renewal.Refused, c.Renewal.Error = renewProblem(r.Refused).Detail, ""
		}
	}
	return c
}

func newCerts(list []tlsmgr.CertStatus) []Cert {
	out := make([]Cert, 0, len(list)) // [] in JSON, not null
	for i := range list {
		out = append(out, newCert(&list[i]))
	}
	return out
}

// Asked is the answer to a renewal that begins.
type Asked struct {
	Name  string    `json:"name"`
	Asked time.Time `json:"asked"`
	Cost  string    `json:"cost"` // for people

	// AttemptsLeft is how many of this hour were left before it; left out:
	// they are not limited.
	AttemptsLeft *int `json:"attempts_left,omitempty"`
}

// adminRoutes are the requests of the private API.
func (a *App) adminRoutes() []admin.Route {
	return append(append(a.banRoutes(), a.callerRoutes()...), []admin.Route{
		{Method: http.MethodGet, Path: "/certs", Do: func(*http.Request) (any, error) { return newCerts(a.certs.Status()), nil }},
		{Method: http.MethodPost, Path: "/certs/renew", Do: a.renewCert},
		{Method: http.MethodPost, Path: "/doctor", Do: func(r *http.Request) (any, error) { return a.examineNow(r.Context()), nil }},
	}...)
}

// renewCert answers POST /certs/renew?name=NAME&force=true. The reasons of its
// problems are those of tlsmgr.RefusedError.
func (a *App) renewCert(r *http.Request) (any, error) {
	q := r.URL.Query()
	name, force := q.Get("name"), false
	if name == "" {
		return nil, &admin.Problem{Status: http.StatusBadRequest, Detail: "name: want the name of a certificate"}
	}
	if text := q.Get("force"); text != "" {
		var err error
		if force, err = strconv.ParseBool(text); err != nil {
			return nil, &admin.Problem{Status: http.StatusBadRequest, Detail: fmt.Sprintf("force: %q, want true or false", text)}
		}
	}
	st, err := a.certs.Renew(name, force)
	if refused, ok := errors.AsType[*tlsmgr.RefusedError](err); ok {
		return nil, renewProblem(refused)
	}
	if err != nil {
		return nil, err
	}
	out := Asked{Name: st.Name, Asked: st.Renewal.Asked, Cost: "costs nothing that is counted"}
	if st.AttemptsLeft >= 0 {
		out.AttemptsLeft, out.Cost = &st.AttemptsLeft, attemptCost(st.AttemptsLeft)
	}
	return out, nil
}

// attemptCost says what one attempt more means when so many are left.
func attemptCost(left int) string {
	switch left {
	case 0:
		return "is one attempt more than this hour's budget has; Let's Encrypt refuses a name for an hour after 5 that fail"
	case 1:
		return "spends the last attempt of this hour"
	}
	return fmt.Sprintf("spends 1 of the %d attempts left in this hour", left)
}

// renewProblem words a refusal for people, with the way out.
func renewProblem(e *tlsmgr.RefusedError) *admin.Problem {
	p := &admin.Problem{Status: http.StatusConflict, Detail: e.Error(), Reason: e.Reason}
	switch e.Reason {
	case tlsmgr.RefusedUnknown:
		p.Status = http.StatusNotFound
		p.Detail += "; `proxy certs list` shows the names"
		return p
	case tlsmgr.RefusedFile, tlsmgr.RefusedBusy:
		return p
	case "dns":
		p.Detail += "; postern tries by itself within seconds of the recovery"
	default:
		if !e.Until.IsZero() {
			p.Detail += "; possible again " + e.Until.Format("2006-01-02 15:04:05")
		}
	}
	if e.Force {
		p.Detail += "; --force tries all the same"
	}
	return p
}

// certTable is the part of the admin page about certificates.
func certTable(list []tlsmgr.CertStatus) admin.Table {
	t := admin.Table{Title: "Certificates", Columns: []string{"name", "issuer", "key", "until", "next try", "DNS"}}
	for i := range list {
		s, c := &list[i], newCert(&list[i])
		row := admin.Row{
			State: certNode(*s).State,
			Cells: []string{c.Name, dash(c.Issuer), dash(c.Key), clock(c.NotAfter), clock(c.NextTry), dash(c.Verdict)},
		}
		if c.Sentence != "" {
			row.Remarks = append(row.Remarks, c.Sentence+since(c.Since))
		}
		if c.LastError != "" {
			row.Remarks = append(row.Remarks, fmt.Sprintf("last error: %q%s", c.LastError, since(c.LastErrorAt)))
			if c.Meaning != "" && c.Meaning != c.Sentence {
				row.Remarks = append(row.Remarks, "which means: "+c.Meaning)
			}
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func dash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

func clock(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.Local().Format("2006-01-02 15:04")
}

func since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " (" + clock(t) + ")"
}

// Certs asks a running postern at its admin address for its certificates.
// When nobody answers, the error is admin.ErrNobody: see NobodyAnswers.
func Certs(ctx context.Context, addr, token string) ([]Cert, error) {
	var out []Cert
	err := admin.Call(ctx, addr, token, http.MethodGet, "/certs", &out)
	return out, err
}

// NobodyAnswers reports whether err says that no postern runs, as far as one
// can tell.
func NobodyAnswers(err error) bool { return errors.Is(err, admin.ErrNobody) }

// StoredCerts tells what the data folder of cfg holds. It asks nobody and
// changes nothing.
func StoredCerts(cfg *config.Config) ([]Cert, error) {
	c := tlsConfig(cfg)
	// Nobody is asked, but what was last seen is told.
	c.Check = func(context.Context, dnscheck.Question) dnscheck.Verdict { return dnscheck.Verdict{} }
	list, err := tlsmgr.Stored(c)
	if err != nil {
		return nil, err
	}
	return newCerts(list), nil
}

// RenewCert asks a running postern for a new certificate for name and returns
// once that begins; WaitForCert waits for what becomes of it. The error is
// what the running postern has against it.
func RenewCert(ctx context.Context, addr, token, name string, force bool) (Asked, error) {
	var out Asked
	target := "/certs/renew?" + url.Values{"name": {name}, "force": {strconv.FormatBool(force)}}.Encode()
	err := admin.Call(ctx, addr, token, http.MethodPost, target, &out)
	if p, ok := errors.AsType[*admin.Problem](err); ok {
		err = p // said in the words of the command, without the address
	}
	return out, err
}

// renewLook is how often WaitForCert looks.
const renewLook = 200 * time.Millisecond

// WaitForCert waits until the renewal that began has ended, or ctx has.
func WaitForCert(ctx context.Context, addr, token string, began Asked) (Cert, error) {
	tick := time.NewTicker(renewLook)
	defer tick.Stop()
	for {
		list, err := Certs(ctx, addr, token)
		if err != nil {
			return Cert{}, err
		}
		found := false
		for _, c := range list {
			if c.Name != began.Name {
				continue
			}
			found = true
			if r := c.Renewal; r != nil && !r.Asked.Before(began.Asked) && !r.Ended.IsZero() {
				return c, nil
			}
		}
		if !found {
			return Cert{}, fmt.Errorf("%s: not a name of the running postern any more", began.Name)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return Cert{}, fmt.Errorf("%s: still under way; `proxy certs list` shows what becomes of it", began.Name)
		}
	}
}
