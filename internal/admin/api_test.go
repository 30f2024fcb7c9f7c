package admin

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// thing is what the API of these tests shows.
type thing struct {
	Name string `json:"name"`
}

func testRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/things", Do: func(*http.Request) (any, error) { return []thing{{"a"}}, nil }},
		{Method: "POST", Path: "/things/make", Do: func(r *http.Request) (any, error) {
			if _, err := io.ReadAll(r.Body); err != nil {
				return nil, err
			}
			switch name := r.URL.Query().Get("name"); name {
			case "taken":
				return nil, &Problem{Status: http.StatusConflict, Detail: "taken: there is one", Reason: "busy"}
			case "broken":
				return nil, errors.New("a secret cause")
			default:
				return thing{name}, nil
			}
		}},
	}
}

func TestAPI(t *testing.T) {
	unix := fakeListener{addr: &net.UnixAddr{Name: "/run/a.sock", Net: "unix"}}
	here, header := "127.0.0.1:40000", []string{ChangeHeader, "1"}
	tests := []struct {
		name           string
		cfg            Config
		method, target string
		remote         string
		header         []string
		body           string
		want           int
		part           string // of the body
	}{
		{"list", Config{}, "GET", "/things", here, nil, "", 200, `"name": "a"`},
		{"list from elsewhere with the token", Config{Listener: tcp("0.0.0.0"), Token: token}, "GET", "/things", "192.0.2.1:1", []string{"Authorization", "Bearer " + token}, "", 200, `"name": "a"`},
		{"list without the token", Config{Token: token}, "GET", "/things", here, nil, "", 401, `"title": "Unauthorized"`},
		{"list for another site", Config{}, "GET", "/things", here, []string{"Sec-Fetch-Site", "cross-site"}, "", 403, "another site"},
		{"list for a rebound name", Config{}, "GET", "/things", here, []string{"Host", "evil.example"}, "", 403, "want localhost"},
		{"HEAD", Config{}, "HEAD", "/things", here, nil, "", 200, ""},
		{"a method it has not", Config{}, "POST", "/things", here, header, "", 405, "want GET, HEAD"},
		{"GET of a change", Config{}, "GET", "/things/make", here, header, "", 405, "want POST"},
		{"preflight", Config{}, "OPTIONS", "/things/make", here, []string{"Origin", "http://localhost:9180"}, "", 405, "want POST"},
		{"a slash too many", Config{}, "GET", "/things/", here, nil, "", 404, ""},

		{"change", Config{}, "POST", "/things/make?name=b", here, header, "", 200, `"name": "b"`},
		{"change over IPv6", Config{}, "POST", "/things/make?name=b", "[::1]:40000", header, "", 200, `"name": "b"`},
		{"change on a unix socket", Config{Listener: unix}, "POST", "/things/make?name=b", "@", header, "", 200, `"name": "b"`},
		{"change by the own page", Config{}, "POST", "/things/make?name=b", here, []string{ChangeHeader, "1", "Origin", "http://localhost:9180", "Sec-Fetch-Site", "same-origin"}, "", 200, ""},
		{"change without the header", Config{}, "POST", "/things/make", here, nil, "", 403, ChangeHeader},
		{"change with another value", Config{}, "POST", "/things/make", here, []string{ChangeHeader, "0"}, "", 403, ChangeHeader},
		{"change for another origin", Config{}, "POST", "/things/make", here, []string{ChangeHeader, "1", "Origin", "https://evil.example"}, "", 403, "another site"},
		{"change for an opaque origin", Config{}, "POST", "/things/make", here, []string{ChangeHeader, "1", "Origin", "null"}, "", 403, "another site"},
		{"change for another port", Config{}, "POST", "/things/make", here, []string{ChangeHeader, "1", "Sec-Fetch-Site", "same-site"}, "", 403, "another site"},
		{"change for a rebound name", Config{}, "POST", "/things/make", here, []string{ChangeHeader, "1", "Host", "evil.example"}, "", 403, "want localhost"},
		{"change without the token", Config{Token: token}, "POST", "/things/make", here, header, "", 401, "a token is needed"},
		{"change with the token", Config{Token: token}, "POST", "/things/make?name=b", here, []string{ChangeHeader, "1", "Authorization", "Bearer " + token}, "", 200, ""},
		{"change with the token from elsewhere", Config{Listener: tcp("0.0.0.0"), Token: token}, "POST", "/things/make", "192.0.2.1:1", []string{ChangeHeader, "1", "Authorization", "Bearer " + token}, "", 403, "from this machine only"},
		{"change with the token from here", Config{Listener: tcp("0.0.0.0"), Token: token}, "POST", "/things/make", here, []string{ChangeHeader, "1", "Authorization", "Bearer " + token}, "", 200, ""},

		{"a body", Config{}, "POST", "/things/make", here, []string{ChangeHeader, "1", "Content-Type", "application/json; charset=utf-8"}, "{}", 200, ""},
		{"a form", Config{}, "POST", "/things/make", here, []string{ChangeHeader, "1", "Content-Type", "text/plain"}, "{}", 415, "want Content-Type: application/json"},
		{"a body of no kind", Config{}, "POST", "/things/make", here, header, "{}", 415, ""},
		{"a large body", Config{}, "POST", "/things/make", here, []string{ChangeHeader, "1", "Content-Type", "application/json"}, strings.Repeat("x", maxBody+1), 413, "at most 65536 bytes"},

		{"refused", Config{}, "POST", "/things/make?name=taken", here, header, "", 409, `"reason": "busy"`},
		{"broken", Config{}, "POST", "/things/make?name=broken", here, header, "", 500, "the log says what"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Routes = testRoutes()
			w := request(handlerFor(t, tt.cfg), tt.method, tt.target, tt.remote, strings.NewReader(tt.body), tt.header...)
			if w.Code != tt.want || !strings.Contains(w.Body.String(), tt.part) {
				t.Fatalf("%d, want %d with %q: %s", w.Code, tt.want, tt.part, w.Body)
			}
			if strings.Contains(w.Body.String(), "secret") || w.Header().Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%v %s", w.Header(), w.Body)
			}
			if tt.want < 400 || tt.want == 404 {
				return
			}
			var p Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != tt.want || p.Title == "" || p.Detail == "" {
				t.Errorf("%v: %+v", err, p)
			}
			if kind := w.Header().Get("Content-Type"); kind != "application/problem+json" {
				t.Errorf("Content-Type %q", kind)
			}
			if (w.Header().Get("Allow") != "") != (tt.want == 405) {
				t.Errorf("Allow %q", w.Header().Get("Allow"))
			}
		})
	}
}

// A body whose length is not told is bounded all the same.
func TestAPIChunkedBody(t *testing.T) {
	w := request(handlerFor(t, Config{Routes: testRoutes()}), "POST", "/things/make", "127.0.0.1:1",
		io.MultiReader(strings.NewReader(strings.Repeat("x", maxBody)), strings.NewReader("x")), ChangeHeader, "1", "Content-Type", "application/json")
	if w.Code != 413 {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}

func request(h http.Handler, method, target, remote string, body io.Reader, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, body)
	r.Host, r.RemoteAddr = "localhost:9180", remote
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestRoutesAreChecked(t *testing.T) {
	do := func(*http.Request) (any, error) { return nil, nil }
	for _, routes := range [][]Route{
		{{Method: "GET", Path: "/a"}},
		{{Method: "GET", Path: "a", Do: do}},
		{{Path: "/a", Do: do}},
		{{Method: "GET", Path: "/a", Do: do}, {Method: "GET", Path: "/a", Do: do}},
	} {
		if _, err := New(Config{Listener: tcp("127.0.0.1"), Routes: routes}); err == nil {
			t.Errorf("%+v: no error", routes)
		}
	}
}

func TestCall(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "unix:" + filepath.Join(t.TempDir(), "admin.sock")} {
		l, err := Listen(addr)
		if err != nil {
			t.Fatal(err)
		}
		if l.Addr().Network() == "tcp" {
			addr = l.Addr().String()
		}
		stop := serve(t, Config{Listener: l, Token: token, Routes: testRoutes()})
		var made thing
		if err := Call(t.Context(), addr, token, "POST", "/things/make?name=b", &made); err != nil || made.Name != "b" {
			t.Errorf("%s: %v, %+v", addr, err, made)
		}
		var list []thing
		if err := Call(t.Context(), addr, token, "GET", "/things", &list); err != nil || len(list) != 1 {
			t.Errorf("%s: %v, %+v", addr, err, list)
		}
		err = Call(t.Context(), addr, token, "POST", "/things/make?name=taken", &made)
		var p *Problem
		if !errors.As(err, &p) || p.Status != 409 || p.Reason != "busy" || err.Error() != "admin at "+addr+": taken: there is one" {
			t.Errorf("%s: %v", addr, err)
		}
		if err := Call(t.Context(), addr, token, "GET", "/nothing", &list); err == nil || !strings.Contains(err.Error(), "is that postern?") {
			t.Errorf("%s: %v", addr, err)
		}
		if err := Call(t.Context(), addr, "", "GET", "/things", &list); err == nil || !strings.Contains(err.Error(), "a token is wanted") {
			t.Errorf("%s: %v", addr, err)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if err := Call(t.Context(), addr, token, "GET", "/things", &list); !errors.Is(err, ErrNobody) {
			t.Errorf("%s, stopped: %v", addr, err)
		}
	}
}

func TestPageTables(t *testing.T) {
	tables := func() []Table {
		return []Table{{Title: "Certificates", Columns: []string{"name", "until"}, Rows: []Row{
			{State: Warn, Cells: []string{"a.example", "2026-11-02"}, Remarks: []string{"the DNS host is <b>down</b>"}},
		}}}
	}
	body := get(handlerFor(t, Config{Tables: tables}), "/").Body.String()
	for _, part := range []string{"<h2>Certificates</h2>", `<th scope="col">until</th>`, `<td data-label="name">a.example</td>`, `<span class="state warn">warn</span>`, `<td colspan="2">the DNS host is &lt;b&gt;down`} {
		if !strings.Contains(body, part) {
			t.Errorf("the page lacks %q:\n%s", part, body[strings.Index(body, "<main>"):])
		}
	}
	if body := get(handlerFor(t, Config{}), "/").Body.String(); strings.Contains(body, "<table") {
		t.Error("a table without one")
	}
}
