package tlsmgr

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/internal/testnet"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
)

func TestReloadRemovesNames(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	cfg := Config{Dir: t.TempDir(), Issuer: "local", Names: []string{"a.example", "b.example"}, Registerer: reg}
	m := localManager(t, cfg)
	d := openDoor(t, m.TLSConfig())
	series := func() int {
		return must(testutil.GatherAndCount(reg, "postern_tls_certificate_not_after_timestamp_seconds",
			"postern_tls_certificate_last_error_timestamp_seconds"))
	}
	if n := series(); n != 4 {
		t.Errorf("%d series for two names, want 4", n)
	}
	if problems := must(testutil.GatherAndLint(reg)); len(problems) > 0 {
		t.Errorf("promlint: %v", problems)
	}
	first, err := d.dial("a.example", nil)
	if err != nil {
		t.Fatal(err)
	}

	bad := cfg
	bad.Names, bad.DefaultHost = []string{"c.example"}, "nobody.example"
	if err := m.Apply(bad); err == nil {
		t.Fatal("a bad configuration was accepted")
	}
	if _, err := d.dial("b.example", nil); err != nil {
		t.Errorf("a refused reload changed something: %v", err)
	}

	cfg.Names = []string{"a.example", "c.example"}
	if err := m.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := d.dial("b.example", nil); err == nil {
		t.Error("b.example is served after a reload took it away")
	}
	kept, err := d.dial("a.example", nil)
	if err != nil || kept.SerialNumber.Cmp(first.SerialNumber) != 0 {
		t.Errorf("a.example changed by the reload: %v", err)
	}
	obtainAll(t, m)
	if _, err := d.dial("c.example", nil); err != nil {
		t.Error(err)
	}
	if n := series(); n != 4 {
		t.Errorf("%d series after the reload, want 4", n)
	}
	if h := m.eng.find("b.example"); h != nil {
		t.Error("b.example is still in memory")
	}
	m.Close()
	if n := series(); n != 0 {
		t.Errorf("%d series after Close, want 0", n)
	}
}

func TestUnreadableStorageHeals(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, ext, content string }{
		{"certificate is junk", ".crt", "junk"},
		{"key is junk", ".key", "junk"},
		{"key is empty", ".key", ""},
		{"metadata is junk", ".json", "{"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			book := &logBook{}
			cfg := Config{Dir: t.TempDir(), Names: []string{"home.example"}, Log: book.logger()}
			localManager(t, cfg).Close()
			files := must(filepath.Glob(filepath.Join(cfg.Dir, "certificates", "*", "home.example", "*"+tc.ext)))
			if len(files) != 1 {
				t.Fatalf("files %q", files)
			}
			writeFile(t, files[0], tc.content)
			m := localManager(t, cfg)
			if _, err := openDoor(t, m.TLSConfig()).dial("home.example", localRoots(t, cfg.Dir)); err != nil {
				t.Error(err)
			}
			aside := must(filepath.Glob(filepath.Join(cfg.Dir, "certificates", "*", "home.example.unreadable-*", "*"+tc.ext)))
			if len(aside) != 1 || !strings.Contains(book.String(), "moved aside") {
				t.Errorf("moved aside %q, log:\n%s", aside, book)
			}
		})
	}
}

func TestLocalRootHeals(t *testing.T) {
	t.Parallel()
	ended, err := newLocalCA(time.Now().Add(-localRootLife))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		why   string
	}{
		{"root is junk", func(t *testing.T, dir string) { writeFile(t, LocalRootPath(dir), "junk") }, "not PEM"},
		{"key is missing", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(localDir(dir), "root-key.pem")); err != nil {
				t.Fatal(err)
			}
		}, "no such file"},
		{"root has ended", func(t *testing.T, dir string) {
			if err := ended.write(LocalRootPath(dir), filepath.Join(localDir(dir), "root-key.pem")); err != nil {
				t.Fatal(err)
			}
		}, "not an authority any more"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			book := &logBook{}
			cfg := Config{Dir: t.TempDir(), Names: []string{"home.example"}, Log: book.logger()}
			localManager(t, cfg).Close()
			tc.spoil(t, cfg.Dir)
			m := localManager(t, cfg)
			// The leaf of the old root is not used: it would not verify.
			if _, err := openDoor(t, m.TLSConfig()).dial("home.example", localRoots(t, cfg.Dir)); err != nil {
				t.Error(err)
			}
			if !strings.Contains(book.String(), "must trust it again") || !strings.Contains(book.String(), tc.why) {
				t.Errorf("log:\n%s", book)
			}
			if strings.Contains(book.String(), "PRIVATE") {
				t.Errorf("log holds a key:\n%s", book)
			}
		})
	}
}

func TestLocalLeaf(t *testing.T) {
	t.Parallel()
	cfg := Config{Dir: t.TempDir(), Names: []string{"home.example", "192.0.2.1"}}
	m := localManager(t, cfg)
	roots := localRoots(t, cfg.Dir)
	for _, n := range cfg.Names {
		leaf := m.eng.find(n)
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: n, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
			t.Errorf("%s: %v", n, err)
		}
		if leaf.KeyUsage != x509.KeyUsageDigitalSignature || leaf.IsCA {
			t.Errorf("%s: key usage %v, authority %v", n, leaf.KeyUsage, leaf.IsCA)
		}
		if life := leaf.NotAfter.Sub(leaf.NotBefore); life > 25*time.Hour {
			t.Errorf("%s: lifetime %v", n, life)
		}
	}
}

func TestChangeOfIssuerServesTheOldMeanwhile(t *testing.T) {
	t.Parallel()
	h := newHouse(t, testnet.CAOptions{})
	cfg := h.config(t.TempDir(), h.name)
	local := cfg
	local.Issuer = "local"
	m, d := h.open(t, local)
	obtainAll(t, m)
	if err := m.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := d.dial(h.name, localRoots(t, cfg.Dir)); err != nil {
		t.Errorf("the local certificate is gone before there is another: %v", err)
	}
	run(t, m)
	served(t, d, h.name, h.ca.IssuerRoots)
}

func TestAsk(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	var broken atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		switch {
		case broken.Load():
			panic(http.ErrAbortHandler)
		case r.URL.Path == "/elsewhere", r.URL.Query().Get("domain") == "yes.example":
		case r.URL.Query().Get("domain") == "moved.example":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		default:
			http.Error(w, "no", http.StatusNotFound)
		}
	}))
	t.Cleanup(srv.Close)
	cfg := Config{Dir: t.TempDir(), OnDemand: &OnDemand{Ask: srv.URL + "/allow?token=hush"}}
	m := localManager(t, cfg)
	d := openDoor(t, m.TLSConfig())
	for _, tc := range []struct {
		name  string
		ok    bool
		calls int64
	}{
		{"yes.example", true, 1},
		{"no.example", false, 2},
		{"moved.example", false, 3}, // not followed
		{"no.example", false, 3},    // remembered
		{"yes.example", true, 3},
		{"single", false, 3}, // not worth a question
		{"203.0.113.1", false, 3},
	} {
		_, err := d.dial(tc.name, nil)
		if (err == nil) != tc.ok || calls.Load() != tc.calls {
			t.Errorf("%s: err %v after %d questions, want served %v after %d", tc.name, err, calls.Load(), tc.ok, tc.calls)
		}
	}
	// The service's outage is not ours for names we hold.
	broken.Store(true)
	m.asks.mu.Lock()
	m.asks.answers = newMemory[answer](memorySize)
	m.asks.mu.Unlock()
	if _, err := d.dial("yes.example", nil); err != nil {
		t.Errorf("a held name is refused while the service is down: %v", err)
	}
	if _, err := d.dial("new.example", nil); err == nil {
		t.Error("a new name is served while the service is down")
	}
	if _, err := m.asks.ask(t.Context(), m.table.Load().onDemand.ask, "new.example"); err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("error %v, want one without the URL", err)
	}
	if got := stored(t, cfg.Dir); !slices.Equal(got, []string{"yes.example"}) {
		t.Errorf("stored %q", got)
	}
}

func TestAskIsBounded(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var calls atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		calls.Add(1)
		<-release
	}))
	t.Cleanup(srv.Close)
	a := newAsker()
	var wg sync.WaitGroup
	var busy atomic.Int64
	for i := range 3 * askAtOnce {
		wg.Go(func() {
			if _, err := a.ask(t.Context(), srv.URL, fmt.Sprintf("n%d.example", i)); errors.Is(err, errAskBusy) {
				busy.Add(1)
			}
		})
	}
	eventually(t, "the rest to be refused", func() bool { return busy.Load() == 2*askAtOnce })
	close(release)
	wg.Wait()
	if n := calls.Load(); n != askAtOnce {
		t.Errorf("%d calls, want %d", n, askAtOnce)
	}
	for i := range 2 * memorySize {
		a.answers.put(fmt.Sprint(i), answer{})
	}
	if n := len(a.answers.at); n != memorySize || a.answers.order.Len() != n {
		t.Errorf("%d answers remembered, want %d", n, memorySize)
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, "")
	dir := t.TempDir()
	for _, tc := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"no folder", Config{}, "data folder is empty"},
		{"folder is a file", Config{Dir: file}, "data folder " + file},
		{"issuer", Config{Dir: dir, Issuer: "magic"}, `tls issuer: "magic", want acme or local`},
		{"version", Config{Dir: dir, MinVersion: tls.VersionTLS10}, "TLS 1.0, want TLS 1.2 or TLS 1.3"},
		{"name", Config{Dir: dir, Names: []string{"not a host"}}, `host "not a host"`},
		{"root missing", Config{Dir: dir, ACME: []ACME{{RootFile: "/nowhere.pem"}}}, "tls acme root: open /nowhere.pem"},
		{"root is not PEM", Config{Dir: dir, ACME: []ACME{{RootFile: file}}}, "holds no certificate"},
		{"ask", Config{Dir: dir, OnDemand: &OnDemand{Ask: "ftp://x/"}}, "tls on_demand ask"},
		{"allow", Config{Dir: dir, OnDemand: &OnDemand{Allow: []string{"a b"}}}, "tls on_demand allow"},
	} {
		m, err := New(tc.cfg)
		if err == nil {
			m.Close()
			t.Errorf("%s: accepted", tc.name)
			continue
		}
		if !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v\nwant %q in it", tc.name, err, tc.want)
		}
	}
}

func TestCanonicalHost(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ in, want string }{
		{"Home.Example.", "home.example"},
		{"*.Home.example", "*.home.example"},
		{"bücher.example", "xn--bcher-kva.example"},
		{"[2001:DB8::1]", "2001:db8::1"},
		{"::ffff:192.0.2.1", "192.0.2.1"},
		{"", ""}, {"*", ""}, {"*.*.example", ""}, {"a/b", ""}, {"host:443", ""}, {"a..b", ""},
	} {
		got, err := canonicalHost(tc.in)
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%q: %q %v, want %q", tc.in, got, err, tc.want)
		}
	}
}

func FuzzCanonicalHost(f *testing.F) {
	for _, s := range []string{"a.example", "*.a.example", "::1", "xn--a", "ß.example."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := canonicalHost(s)
		if err != nil {
			return
		}
		if again, err := canonicalHost(got); err != nil || again != got {
			t.Errorf("%q became %q, and that %q (%v)", s, got, again, err)
		}
		if canonicalSNI(got) != got {
			t.Errorf("%q is not how a client sends it", got)
		}
	})
}

func TestCertState(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		left time.Duration
		want string
	}{
		{60 * 24 * time.Hour, StateOK}, {18*24*time.Hour + time.Second, StateOK},
		{18 * 24 * time.Hour, StateExpiring}, {time.Second, StateExpiring}, {0, StateExpired}, {-time.Hour, StateExpired},
	} {
		end := now.Add(tc.left)
		leaf := &x509.Certificate{NotBefore: end.Add(-90 * 24 * time.Hour), NotAfter: end}
		if got := certState(leaf, now); got != tc.want {
			t.Errorf("%v left: %s, want %s", tc.left, got, tc.want)
		}
	}
	if got := certState(nil, now); got != StateMissing {
		t.Errorf("none: %s", got)
	}
}

// certmagic's noise goes down, and its fields keep their types.
func TestZapBridge(t *testing.T) {
	t.Parallel()
	var got []slog.Record
	z := newZap(slog.New(recorder{&got})).Named("obtain").With(zap.Int("n", 7))
	z.Info("made up", zap.Duration("took", time.Second), zap.Bool("ok", true), zap.Strings("names", []string{"a"}),
		zap.Error(errors.New("broken")), zap.Time("at", time.Unix(5, 0)), zap.Float64("f", 0.5), zap.Any("x", map[string]int{"y": 1}))
	z.Error("certificate is odd")
	z.Named("handshake").Error("a stranger came")
	z.Error("could not get certificate from issuer")
	var lines []string
	for _, r := range got {
		var b strings.Builder
		fmt.Fprintf(&b, "%v %s", r.Level, r.Message)
		r.Attrs(func(a slog.Attr) bool {
			fmt.Fprintf(&b, " %s=%v:%v", a.Key, a.Value.Kind(), a.Value)
			return true
		})
		lines = append(lines, b.String())
	}
	wantFirst := "DEBUG made up component=String:certmagic logger=String:obtain took=Duration:1s ok=Bool:true names=Any:[a] error=Any:broken at=Time:" +
		time.Unix(5, 0).String() + " f=Float64:0.5 x=Any:map[y:1]"
	if len(lines) != 4 || lines[0] != wantFirst {
		t.Fatalf("got\n%s\nwant first\n%s", strings.Join(lines, "\n"), wantFirst)
	}
	for i, want := range []string{"DEBUG", "WARN", "DEBUG", "DEBUG"} {
		if !strings.HasPrefix(lines[i], want) {
			t.Errorf("%q, want %s", lines[i], want)
		}
	}
}

type recorder struct{ to *[]slog.Record }

func (recorder) Enabled(context.Context, slog.Level) bool { return true }
func (r recorder) Handle(_ context.Context, rec slog.Record) error {
	*r.to = append(*r.to, rec)
	return nil
}
func (r recorder) WithAttrs([]slog.Attr) slog.Handler { return r }
func (r recorder) WithGroup(string) slog.Handler      { return r }
