package app

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"postern/internal/admin"
	"postern/internal/caller"
	"postern/internal/config"
)

// CallerInfo is one way by which a caller may prove itself, as the private API
// and `proxy caller list --json` tell it. Scripts read this: names and words
// stay. What is not known is left out.
type CallerInfo struct {
	Caller  string    `json:"caller"`
	Method  string    `json:"method"`       // of caller.Method, without the difference between the two kinds of signatures
	ID      string    `json:"id,omitempty"` // of a key or certificate that was made here, a key id, an issuer
	State   string    `json:"state"`        // ok, expired, revoked, unconfigured: the file does not name the caller; missing: nothing was made for it yet
	Created time.Time `json:"created,omitzero"`
	Expires time.Time `json:"expires,omitzero"`
	Used    time.Time `json:"last_used,omitzero"`
	Note    string    `json:"note,omitempty"` // for people
}

// storedCallers are those of the data folder and the file.
func storedCallers(cfg *config.Config, keys []caller.KeyStatus) ([]CallerInfo, error) {
	store, err := caller.OpenStore(callersDir(cfg))
	if err != nil {
		return nil, err
	}
	stored, err := store.Keys()
	if err != nil {
		return nil, err
	}
	certs, err := store.Certificates()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	state := func(name string, revoked, expires time.Time) string {
		switch {
		case !revoked.IsZero():
			return "revoked"
		case !expires.IsZero() && now.After(expires):
			return "expired"
		case cfg.Callers[name] == nil:
			return "unconfigured"
		}
		return "ok"
	}
	var out []CallerInfo
	for _, name := range slices.Sorted(maps.Keys(cfg.Callers)) {
		out = append(out, configuredWays(name, cfg.Callers[name])...)
	}
	for _, k := range stored {
		out = append(out, CallerInfo{Caller: k.Caller, Method: caller.APIKey.String(), ID: k.ID, State: state(k.Caller, k.Revoked, k.Expires), Created: k.Created, Expires: k.Expires})
	}
	for _, c := range certs {
		out = append(out, CallerInfo{Caller: c.Caller, Method: caller.ClientCertificate.String(), ID: c.Serial, State: state(c.Caller, c.Revoked, c.NotAfter), Created: c.Created, Expires: c.NotAfter})
	}
	out = append(out, withoutProof(cfg.Callers, out)...)
	for i := range out {
		for _, k := range keys {
			if out[i].Method == caller.APIKey.String() && k.Caller == out[i].Caller && (k.ID == out[i].ID || k.ID == "" && strings.HasPrefix(out[i].ID, "sha256:"+k.Hash)) {
				out[i].Used = k.LastUsed
			}
		}
	}
	slices.SortStableFunc(out, func(a, b CallerInfo) int { return strings.Compare(a.Caller, b.Caller) })
	return out, nil
}

// withoutProof are the callers that the file names and nothing proves now:
// nobody can call as them yet, or any more.
func withoutProof(callers config.Callers, ways []CallerInfo) (out []CallerInfo) {
	for _, name := range slices.Sorted(maps.Keys(callers)) {
		if slices.ContainsFunc(ways, func(w CallerInfo) bool { return w.Caller == name && w.State == "ok" }) {
			continue
		}
		way := CallerInfo{Caller: name, Method: caller.APIKey.String(), State: "missing"}
		if callers[name].MTLS != nil {
			way.Method = caller.ClientCertificate.String()
		}
		out = append(out, way)
	}
	return out
}

// configuredWays are the ways that the file names.
func configuredWays(name string, c *config.Caller) (out []CallerInfo) {
	add := func(m caller.Method, id, note string) {
		out = append(out, CallerInfo{Caller: name, Method: m.String(), ID: id, State: "ok", Note: note})
	}
	for _, h := range c.APIKeyHash {
		add(caller.APIKey, h[:min(len(h), len("sha256:")+16)], "in the configuration")
	}
	if a := c.AWS; a != nil {
		if a.Issuer != "" {
			add(caller.AWSToken, a.Issuer, a.Role)
		}
		if a.STSRegion != "" {
			add(caller.AWSIdentity, a.STSRegion, a.Role)
		}
	}
	if g := c.Signature; g != nil {
		add(caller.Signature, g.KeyID, "")
	}
	if m := c.MTLS; m != nil && m.CA != "" {
		add(caller.ClientCertificate, m.Subject, "of "+filepath.Base(m.CA))
	}
	if j := c.JWT; j != nil {
		add(caller.Token, j.Issuer, "")
	}
	return out
}

// callerRoutes are the requests of the private API about callers.
func (a *App) callerRoutes() []admin.Route {
	return []admin.Route{
		{Method: http.MethodGet, Path: "/callers", Do: func(*http.Request) (any, error) {
			a.mu.Lock()
			cfg, book := a.cfg, a.built.snapshot.Callers
			a.mu.Unlock()
			var keys []caller.KeyStatus
			if book != nil {
				keys = book.Keys()
			}
			list, err := storedCallers(cfg, keys)
			if list == nil {
				list = []CallerInfo{} // [] in JSON, not null
			}
			return list, err
		}},
		{Method: http.MethodPost, Path: "/callers/reload", Do: func(*http.Request) (any, error) {
			if err := a.callers.Reload(); err != nil {
				return nil, &admin.Problem{Status: http.StatusConflict, Detail: err.Error()}
			}
			return struct{}{}, nil
		}},
		{Method: http.MethodGet, Path: "/callers/watch", Do: a.watchCallers},
	}
}

// callerEvents is the answer of GET /callers/watch.
type callerEvents struct {
	Events []caller.Event `json:"events"`
	Next   uint64         `json:"next"`
}

// watchWait is how long a request for events waits for some.
const watchWait = 10 * time.Second

// watchCallers answers GET /callers/watch?after=SEQ.
func (a *App) watchCallers(r *http.Request) (any, error) {
	var seq uint64
	if text := r.URL.Query().Get("after"); text != "" {
		var err error
		if seq, err = strconv.ParseUint(text, 10, 64); err != nil {
			return nil, &admin.Problem{Status: http.StatusBadRequest, Detail: fmt.Sprintf("after: %q, want the number that came with the last events", text)}
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), watchWait)
	defer cancel()
	events, next := a.callers.Watch(ctx, seq)
	return callerEvents{events, next}, nil
}

// Callers asks a running postern for its callers.
func Callers(ctx context.Context, addr, token string) ([]CallerInfo, error) {
	var out []CallerInfo
	err := admin.Call(ctx, addr, token, http.MethodGet, "/callers", &out)
	return out, err
}

// StoredCallers tells what the file and the data folder know. It asks nobody.
func StoredCallers(cfg *config.Config) ([]CallerInfo, error) { return storedCallers(cfg, nil) }

// WriteCallers writes a table for people.
func WriteCallers(w io.Writer, list []CallerInfo) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "no callers; `proxy caller add NAME` makes a key for one")
		return err
	}
	rows := [][]string{{"CALLER", "METHOD", "ID", "STATE", "EXPIRES", "LAST USED"}}
	for _, c := range list {
		rows = append(rows, []string{c.Caller, c.Method, dash(c.ID), c.State, clock(c.Expires), clock(c.Used)})
	}
	return writeColumns(w, rows)
}

// writeColumns writes rows with aligned columns.
func writeColumns(w io.Writer, rows [][]string) error {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for _, row := range rows {
		line := ""
		for i, cell := range row {
			line += printable(cell) + strings.Repeat(" ", max(0, widths[i]-len([]rune(cell)))+2)
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " ")); err != nil {
			return err
		}
	}
	return nil
}

// NewCaller says what `proxy caller add` makes.
type NewCaller struct {
	Name    string
	MTLS    bool          // a certificate instead of a key
	Rotate  bool          // another key for one that has keys
	Overlap time.Duration // how long the key before stays good when rotating
	Expires time.Duration // 0: a key never does, a certificate after a year
}

// AddCaller makes a key or certificate and writes it to out: it is told this
// once. What else there is to say goes to note.
func AddCaller(cfg *config.Config, o NewCaller, out, note io.Writer) error {
	if err := config.CheckCallerName(o.Name); err != nil {
		return err
	}
	if err := ensureData(cfg.Data); err != nil {
		return err
	}
	dir := callersDir(cfg)
	store, err := caller.OpenStore(dir)
	if err != nil {
		return err
	}
	defer func() { _ = giveBack(dir) }() // at worst the service cannot read what root wrote, and says so
	now := time.Now()
	var expires time.Time
	if o.Expires > 0 {
		expires = now.Add(o.Expires).UTC().Truncate(time.Second)
	}
	configured := cfg.Callers[o.Name]
	if configured == nil {
		fmt.Fprintf(note, "note: %s is not in callers of the configuration yet; add\n  callers:\n    %s: %s\nand its name to callers of a site or route\n", o.Name, o.Name, map[bool]string{true: "{mtls: true}", false: "{}"}[o.MTLS])
	} else if o.MTLS && configured.MTLS == nil {
		fmt.Fprintf(note, "note: callers.%s takes no certificates yet; add mtls: true to it\n", o.Name)
	}
	if o.MTLS {
		life := o.Expires
		if life == 0 {
			life = caller.CertLife
		}
		certPEM, keyPEM, made, err := store.AddCertificate(o.Name, life, now)
		if err != nil {
			return err
		}
		fmt.Fprintf(note, "certificate %s of %s, good until %s; it is shown this once\n", made.Serial, o.Name, made.NotAfter.Format(time.DateOnly))
		_, err = fmt.Fprintf(out, "%s%s", keyPEM, certPEM)
		return err
	}
	make := store.AddKey
	if o.Rotate {
		make = func(name string, expires, now time.Time) (string, caller.StoredKey, error) {
			return store.RotateKey(name, o.Overlap, expires, now)
		}
	}
	text, made, err := make(o.Name, expires, now)
	if err != nil {
		return err
	}
	until := "does not expire"
	if !made.Expires.IsZero() {
		until = "good until " + made.Expires.Format("2006-01-02 15:04")
	}
	fmt.Fprintf(note, "key %s of %s, %s; it is shown this once. Send it as\n  Authorization: Bearer KEY\n", made.ID, o.Name, until)
	_, err = fmt.Fprintln(out, text)
	return err
}

// RevokeCaller takes back a key or certificate of a caller, or all it has.
func RevokeCaller(cfg *config.Config, name, id string) (n int, err error) {
	dir := callersDir(cfg)
	store, err := caller.OpenStore(dir)
	if err != nil {
		return 0, err
	}
	defer func() { _ = giveBack(dir) }() // as in AddCaller
	n, err = store.Revoke(name, id, time.Now())
	switch {
	case err != nil:
		return 0, err
	case n == 0 && id != "":
		return 0, fmt.Errorf("%s: has no key or certificate %s that is good; `proxy caller list` shows them", name, id)
	case n == 0:
		return 0, fmt.Errorf("%s: has nothing that was made here and is good; what the configuration names is taken back there", name)
	}
	return n, nil
}

// ReloadCallers has a running postern read the keys again. When nobody
// answers, the error is admin.ErrNobody: see NobodyAnswers.
func ReloadCallers(ctx context.Context, addr, token string) error {
	return admin.Call(ctx, addr, token, http.MethodPost, "/callers/reload", &struct{}{})
}

// WatchCallers writes what a running postern's callers do, a line each, until
// ctx ends.
func WatchCallers(ctx context.Context, addr, token string, out io.Writer) error {
	var seq uint64
	for {
		var got callerEvents
		target := "/callers/watch?" + url.Values{"after": {strconv.FormatUint(seq, 10)}}.Encode()
		err := admin.Call(ctx, addr, token, http.MethodGet, target, &got)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		for _, e := range got.Events {
			if seq != 0 && e.Seq > seq+1 {
				fmt.Fprintf(out, "… %d more\n", e.Seq-seq-1)
			}
			seq = e.Seq
			if _, err := fmt.Fprintln(out, eventLine(&e)); err != nil {
				return err
			}
		}
		seq = max(seq, got.Next)
		if len(got.Events) == 0 {
			select { // too many watch already, or nothing came
			case <-ctx.Done():
				return nil
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

func eventLine(e *caller.Event) string {
	who := e.Caller + " by " + e.Method
	if e.Caller == "" {
		who = "stranger: " + e.Failure
	}
	status := strconv.Itoa(e.Status)
	if e.Status == 0 {
		status = "cut"
	}
	return printable(fmt.Sprintf("%s  %-30s  %-3s  %7.1f ms  %s  %s", e.Time.Local().Format("15:04:05"), who, status, e.TookMS, e.Client, e.Request))
}
