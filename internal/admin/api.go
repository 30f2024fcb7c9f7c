package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Route is one request of the private API: what app offers next to the pages.
type Route struct {
	// Method and Path, without a trailing slash, are matched exactly. GET
	// answers HEAD as well. Any other method changes something, and is
	// answered only under the conditions of ChangeHeader.
	Method, Path string

	// Do answers. What it returns is sent as JSON with the status 200. An
	// error that is a *Problem is the answer; any other one is a 500 that
	// does not tell it, and goes to the log. It is called concurrently.
	// The body of the request is limited to 64 KiB.
	Do func(r *http.Request) (any, error)
}

// ChangeHeader must come, with the value 1, with every request that changes
// something. A page of another site cannot send it without asking us first
// (the Fetch standard's CORS-preflight), and we never agree. Such requests
// must also come from this machine, on a loopback connection or a unix socket,
// whatever address we listen on.
const ChangeHeader = "X-Postern"

// maxBody bounds the body of an API request.
const maxBody = 64 << 10

// Problem is an error in the form of RFC 9457, of the type about:blank.
type Problem struct {
	Status int    `json:"status"` // of HTTP; from 400 to 599
	Title  string `json:"title"`  // nothing: that of the status
	Detail string `json:"detail"` // for people; the object, the cause and the way out

	// Reason is a word for programs, from a set that each route documents.
	Reason string `json:"reason,omitempty"`
}

// Error implements error.
func (p *Problem) Error() string { return p.Detail }

// api answers the routes it was given.
type api struct {
	routes map[string]map[string]Route // by path and method; never changed
	unix   bool                        // requests come over a unix socket
	log    *slog.Logger
}

func newAPI(routes []Route, at net.Addr, log *slog.Logger) (*api, error) {
	a := &api{routes: map[string]map[string]Route{}, unix: at.Network() == "unix", log: log}
	for _, r := range routes {
		if r.Do == nil || r.Method == "" || !strings.HasPrefix(r.Path, "/") {
			return nil, fmt.Errorf("admin: route %q %q: want a method, a path and a function", r.Method, r.Path)
		}
		if a.routes[r.Path] == nil {
			a.routes[r.Path] = map[string]Route{}
		}
		if _, twice := a.routes[r.Path][r.Method]; twice {
			return nil, fmt.Errorf("admin: route %s %s is there twice", r.Method, r.Path)
		}
		a.routes[r.Path][r.Method] = r
	}
	return a, nil
}

// has reports whether path is one of the API.
func (a *api) has(path string) bool { return a.routes[path] != nil }

// methods are those of path, as the Allow field wants them.
func (a *api) methods(path string) string {
	var out []string
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		if _, ok := a.routes[path][m]; !ok {
			continue
		}
		out = append(out, m)
		if m == http.MethodGet {
			out = append(out, http.MethodHead)
		}
	}
	return strings.Join(out, ", ")
}

// serve answers a request for a path of the API that may pass the gate.
func (a *api) serve(w http.ResponseWriter, r *http.Request) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	route, ok := a.routes[r.URL.Path][method]
	if !ok {
		w.Header().Set("Allow", a.methods(r.URL.Path))
		writeProblem(w, &Problem{Status: http.StatusMethodNotAllowed, Detail: r.URL.Path + ": want " + a.methods(r.URL.Path)})
		return
	}
	if method != http.MethodGet {
		if p := a.mayChange(r); p != nil {
			writeProblem(w, p)
			return
		}
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	answer, err := route.Do(r)
	var p *Problem
	var large *http.MaxBytesError
	switch {
	case err == nil:
		writeJSON(w, http.StatusOK, "application/json", answer)
	case errors.As(err, &p):
		writeProblem(w, p)
	case errors.As(err, &large):
		writeProblem(w, &Problem{Status: http.StatusRequestEntityTooLarge, Detail: fmt.Sprintf("the body is too large: want at most %d bytes", maxBody)})
	default:
		a.log.Error("admin request broke", "method", r.Method, "path", r.URL.Path, "err", err)
		writeProblem(w, &Problem{Status: http.StatusInternalServerError, Detail: "something broke here; the log says what"})
	}
}

// mayChange returns why r may not change anything, or nil. The gate has seen
// to the token and to what browsers say about other sites.
func (a *api) mayChange(r *http.Request) *Problem {
	switch {
	case !a.unix && !loopback(r.RemoteAddr):
		return &Problem{Status: http.StatusForbidden, Detail: "what changes something is done from this machine only: by the proxy command, on loopback or a unix socket"}
	case r.Header.Get(ChangeHeader) != "1":
		return &Problem{Status: http.StatusForbidden, Detail: "the header " + ChangeHeader + ": 1 is missing, which keeps other sites' pages from doing this"}
	}
	if r.ContentLength != 0 {
		if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
			return &Problem{Status: http.StatusUnsupportedMediaType, Detail: "the body: want Content-Type: application/json"}
		}
	}
	if r.ContentLength > maxBody {
		return &Problem{Status: http.StatusRequestEntityTooLarge, Detail: fmt.Sprintf("the body is too large: want at most %d bytes", maxBody)}
	}
	return nil
}

// loopback reports whether remote, as net/http tells it, is on this machine.
func loopback(remote string) bool {
	ap, err := netip.ParseAddrPort(remote)
	return err == nil && ap.Addr().Unmap().IsLoopback()
}

func writeProblem(w http.ResponseWriter, p *Problem) {
	out := *p
	if out.Title == "" {
		out.Title = http.StatusText(out.Status)
	}
	writeJSON(w, out.Status, "application/problem+json", out)
}

func writeJSON(w http.ResponseWriter, status int, kind string, v any) {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // our own types always marshal
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	_, _ = w.Write(append(raw, '\n')) // a client that went away misses it
}
