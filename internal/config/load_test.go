package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const oneSite = "sites:\n  - hosts: [a.duckdns.org]\n    upstream: 127.0.0.1:3000\n"

// mustParse parses a file that must be right.
func mustParse(t *testing.T, src string) *Config {
	t.Helper()
	cfg, err := parse("/etc/postern/postern.yaml", []byte(src), testEnv())
	if err != nil {
		t.Fatalf("%v\nin:\n%s", err, src)
	}
	return cfg
}

func TestFiveLines(t *testing.T) {
	got := mustParse(t, fiveLines)
	want := Default()
	want.File = "/etc/postern/postern.yaml"
	want.Email, want.TLS.Email = "me@example.org", "me@example.org"
	want.Data = "/home/pi/.local/share/postern"
	want.Sites = []Site{{
		Hosts:    []string{"mypi.duckdns.org"},
		HTTP:     "redirect",
		Balance:  "round_robin",
		HashBy:   "address",
		Upstream: Upstreams{"127.0.0.1:3000"},
		Timeout:  Timeout{new(3 * time.Second), new(60 * time.Second), new(time.Duration(0)), new(4 * time.Second)},
		MaxBody:  new(Size(0)),
	}}
	if d := cmp.Diff(want, got, cmpopts.IgnoreFields(Config{}, "Warnings"), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	routes := got.Sites[0].AllRoutes()
	if len(routes) != 1 || routes[0].Path != "/*" || routes[0].Upstream[0] != "127.0.0.1:3000" || *routes[0].Timeout.Idle != 4*time.Second {
		t.Errorf("routes %+v", routes)
	}
}

// TestMeaning says what one more line in a small file does.
func TestMeaning(t *testing.T) {
	for _, tc := range []struct {
		name, src string
		get       func(*Config) any
		want      any
	}{
		{"listen text", "listen: {http: ':8080'}\n" + oneSite, func(c *Config) any { return c.Listen.HTTP }, Addrs{":8080"}},
		{"listen list", "listen: {https: [':443', '[::1]:8443']}\n" + oneSite, func(c *Config) any { return c.Listen.HTTPS }, Addrs{":443", "[::1]:8443"}},
		{"listener off by text", "listen: {https: ''}\n" + oneSite, func(c *Config) any { return len(c.Listen.HTTPS) }, 0},
		{"listener off by list", "listen: {https: []}\n" + oneSite, func(c *Config) any { return len(c.Listen.HTTPS) }, 0},
		{"http serves when https is off", "listen: {https: ''}\n" + oneSite, func(c *Config) any { return c.Sites[0].HTTP }, "serve"},
		{"free ports never collide", "listen: {http: '127.0.0.1:0', https: '127.0.0.1:0'}\n" + oneSite, func(c *Config) any { return c.Listen.HTTP }, Addrs{"127.0.0.1:0"}},
		{"admin off", "admin: {listen: ''}\n" + oneSite, func(c *Config) any { return c.Admin.Listen }, ""},
		{"admin public with token", "admin: {listen: ':9180', token: 0123456789abcdef}\n" + oneSite, func(c *Config) any { return c.Admin.Token.Reveal() }, "0123456789abcdef"},
		{"admin socket", "admin: {listen: unix:admin.sock}\n" + oneSite, func(c *Config) any { return c.Admin.Listen }, "unix:/etc/postern/admin.sock"},
		{"log file as a path", "log: {file: access.log}\n" + oneSite, func(c *Config) any { return *c.Log.File }, LogFile{"/etc/postern/access.log", 10, 0, 5}},
		{"log file in full", "log: {file: {path: /var/log/a.log, max_size: 3}}\n" + oneSite, func(c *Config) any { return *c.Log.File }, LogFile{"/var/log/a.log", 3, 0, 5}},
		{"data", "data: state\n" + oneSite, func(c *Config) any { return c.Data }, "/etc/postern/state"},
		{"prefixes", "trusted_proxies: [10.0.0.0/8, 192.0.2.7, '::1', '::ffff:192.0.2.8']\n" + oneSite, func(c *Config) any { return fmt.Sprint(c.TrustedProxies) }, "[10.0.0.0/8 192.0.2.7/32 ::1/128 192.0.2.8/32]"},
		{"one prefix", "trusted_proxies: 10.0.0.0/8\n" + oneSite, func(c *Config) any { return fmt.Sprint(c.TrustedProxies) }, "[10.0.0.0/8]"},
		{"never emptied", "guard: {never: []}\n" + oneSite, func(c *Config) any { return len(c.Guard.Never) }, 0},
		{"days", "grace: 1d12h\n" + oneSite, func(c *Config) any { return c.Grace }, 36 * time.Hour},
		{"zero without unit", "grace: 0\n" + oneSite, func(c *Config) any { return c.Grace }, time.Duration(0)},
		{"tls email wins", "email: a@mail.net\ntls: {email: b@mail.net}\n" + oneSite, func(c *Config) any { return c.Email + c.TLS.Email }, "b@mail.netb@mail.net"},
		{"version unquoted", "tls: {min_version: 1.3}\n" + oneSite, func(c *Config) any { return c.TLS.MinVersion }, "1.3"},
		{"choice in capitals", "log: {level: WARN}\n" + oneSite, func(c *Config) any { return c.Log.Level }, "warn"},
		{"challenge without listener is left out", "listen: {http: ''}\n" + oneSite, func(c *Config) any { return c.TLS.ACME[0].Challenges }, []string{"tls-alpn-01"}},
		{"hsts true", oneSite + "    hsts: true\n", func(c *Config) any { return *c.Sites[0].HSTS }, HSTS{MaxAge: 8760 * time.Hour}},
		{"hsts false", oneSite + "    hsts: false\n", func(c *Config) any { return c.Sites[0].HSTS == nil }, true},
		{"hsts in full", oneSite + "    hsts: {max_age: 7d}\n", func(c *Config) any { return c.Sites[0].HSTS.MaxAge }, 168 * time.Hour},
		{"rate in full", oneSite + "    rate_limit: {rate: 20/s, burst: 40}\n", func(c *Config) any { return *c.Sites[0].RateLimit }, RateLimit{Rate{20, time.Second}, 40}},
		{"rate alone", oneSite + "    rate_limit: 300/m\n", func(c *Config) any { return *c.Sites[0].RateLimit }, RateLimit{Rate{300, time.Minute}, 300}},
		{"hosts canonical", "sites:\n  - {hosts: [MyPi.DuckDNS.org., Bücher.duckdns.org], upstream: 127.0.0.1:3000}\n", func(c *Config) any { return c.Sites[0].Hosts }, []string{"mypi.duckdns.org", "xn--bcher-kva.duckdns.org"}},
		{"one host as text", "sites:\n  - {hosts: mypi.duckdns.org, upstream: 127.0.0.1:3000}\n", func(c *Config) any { return c.Sites[0].Hosts }, []string{"mypi.duckdns.org"}},
		{"addresses as hosts", "tls: {issuer: local}\nsites:\n  - {hosts: ['[::1]', 192.168.1.5], upstream: 127.0.0.1:3000}\n", func(c *Config) any { return c.Sites[0].Hosts }, []string{"[::1]", "192.168.1.5"}},
		{"an IPv6 address without brackets", "tls: {issuer: local, default_host: '::1'}\nsites:\n  - {hosts: ['0:0::1'], upstream: 127.0.0.1:3000}\n", func(c *Config) any { return c.Sites[0].Hosts[0] + c.TLS.DefaultHost }, "[::1][::1]"},
		{"address with files", "sites:\n  - {hosts: 192.168.1.5, tls: {cert: a.pem, key: b.pem}, upstream: 127.0.0.1:3000}\n", func(c *Config) any { return *c.Sites[0].TLS }, SiteTLS{"/etc/postern/a.pem", "/etc/postern/b.pem"}},
		{"private name at a private authority", "tls: {acme: {directory: 'https://ca.lan/dir', root: ca.pem}}\nsites:\n  - {hosts: nas.lan, upstream: 127.0.0.1:3000}\n", func(c *Config) any { return c.TLS.ACME[0].Root }, "/etc/postern/ca.pem"},
		{"several authorities", "tls: {acme: [{profile: classic}, {directory: 'https://ca.lan/dir', root: ca.pem, challenges: http-01}]}\n" + oneSite, func(c *Config) any { return c.TLS.ACME }, ACMEs{
			{Directory: LetsEncrypt, Profile: "classic", Challenges: []string{"http-01", "tls-alpn-01"}},
			{Directory: "https://ca.lan/dir", Root: "/etc/postern/ca.pem", Challenges: []string{"http-01"}},
		}},
		{"retry", "tls: {retry: {check: 10s}}\n" + oneSite, func(c *Config) any { return c.TLS.Retry }, Retry{10 * time.Second, 4}},
		{"public address", "tls: {ip: true}\n" + oneSite, func(c *Config) any { return c.TLS.IP }, IPs{"public"}},
		{"no address", "tls: {ip: false}\n" + oneSite, func(c *Config) any { return len(c.TLS.IP) }, 0},
		{"addresses", "tls: {ip: [public, '2001:DB8:0::1', ::ffff:203.0.113.7]}\n" + oneSite, func(c *Config) any { return c.TLS.IP }, IPs{"public", "2001:db8::1", "203.0.113.7"}},
		{"loopback authority over http", "tls: {acme: {directory: 'http://127.0.0.1:14000/dir'}}\n" + oneSite, func(c *Config) any { return c.TLS.ACME[0].Directory }, "http://127.0.0.1:14000/dir"},
		{"no names checked without https", "listen: {https: ''}\nsites:\n  - {hosts: [192.168.1.5, home, '*.home.lan'], upstream: 127.0.0.1:3000}\n", func(c *Config) any { return len(c.Sites[0].Hosts) }, 3},
		{"upstreams in braces", "sites:\n  - {hosts: [a.duckdns.org], upstream: [127.0.0.1:3000, b:1, 'd:1', http://c:2, \"[::1]:2\", unix:a.sock, unix:/a.sock]}\n", func(c *Config) any { return c.Sites[0].Upstream }, Upstreams{"127.0.0.1:3000", "b:1", "d:1", "http://c:2", "[::1]:2", "unix:/etc/postern/a.sock", "unix:/a.sock"}},
		{"prefixes in braces", "guard: {never: [::1, fd00::/8,10.0.0.0/8]}\n" + oneSite, func(c *Config) any { return fmt.Sprint(c.Guard.Never) }, "[::1/128 fd00::/8 10.0.0.0/8]"},
		{"listen in braces", "listen: {http: [:80, :8080]}\n" + oneSite, func(c *Config) any { return c.Listen.HTTP }, Addrs{":80", ":8080"}},
		{"variables", "email: ${MAIL}\ndata: ${NOPE:-/srv}/x$${HOME}$\nsites:\n  - hosts: [\"a.duckdns.org\"]\n    upstream: 127.0.0.1:${PORT}\n", func(c *Config) any { return c.Email + " " + c.Data + " " + c.Sites[0].Upstream[0] }, "me@mail.net /srv/x${HOME}$ 127.0.0.1:3000"},
		{"variables are no YAML", "sites:\n  - hosts: [a.duckdns.org]\n    routes: [{respond: {body: \"${LIST}\"}}]\n", func(c *Config) any { return c.Sites[0].Routes[0].Respond.Body }, "[a, b]"},
		{"variable as a number", "limits: {connections: \"${PORT}\"}\n" + oneSite, func(c *Config) any { return c.Limits.Connections }, 3000},
		{"block text", "sites:\n  - hosts: [a.duckdns.org]\n    routes:\n      - respond:\n          body: |\n            one\n            two\n", func(c *Config) any { return c.Sites[0].Routes[0].Respond.Body }, "one\ntwo\n"},
		{"byte order mark", "\ufeff" + oneSite, func(c *Config) any { return len(c.Sites) }, 1},
		{"windows line ends", strings.ReplaceAll(oneSite, "\n", "\r\n"), func(c *Config) any { return len(c.Sites) }, 1},
		{"document marks", "---\n" + oneSite + "...\n", func(c *Config) any { return len(c.Sites) }, 1},
		{"an empty document after", oneSite + "---\n# nothing\n", func(c *Config) any { return len(c.Sites) }, 1},
		{"anchor", "sites:\n  - hosts: [a.duckdns.org]\n    upstream: &app 127.0.0.1:3000\n  - hosts: [b.duckdns.org]\n    upstream: *app\n", func(c *Config) any { return c.Sites[1].Upstream }, Upstreams{"127.0.0.1:3000"}},
		{"anchor redefined", "sites:\n  - hosts: [a.duckdns.org]\n    upstream: &app 127.0.0.1:3000\n  - hosts: [b.duckdns.org]\n    upstream: &app 127.0.0.1:4000\n  - hosts: [c.duckdns.org]\n    upstream: *app\n", func(c *Config) any { return c.Sites[2].Upstream }, Upstreams{"127.0.0.1:4000"}},
		{"merge", "sites:\n  - &s\n    hosts: [a.duckdns.org]\n    upstream: 127.0.0.1:3000\n    http: off\n  - <<: *s\n    hosts: [b.duckdns.org]\n", func(c *Config) any { return c.Sites[1].Hosts[0] + c.Sites[1].Upstream[0] + c.Sites[1].HTTP }, "b.duckdns.org127.0.0.1:3000off"},
		{"methods", "sites:\n  - {hosts: a.duckdns.org, routes: [{methods: [get, Propfind], respond: {}}]}\n", func(c *Config) any { return c.Sites[0].Routes[0].Methods }, []string{"GET", "PROPFIND"}},
		{"redirect as text", "sites:\n  - {hosts: a.duckdns.org, routes: [{redirect: 'https://b.duckdns.org/*'}]}\n", func(c *Config) any { return *c.Sites[0].Routes[0].Redirect }, Redirect{"https://b.duckdns.org/*", 308}},
		{"redirect to what an earlier route takes", "sites:\n  - {hosts: a.duckdns.org, routes: [{path: /login, upstream: 'app:80'}, {redirect: /login}]}\n", func(c *Config) any { return len(c.Sites[0].Routes) }, 2},
		{"routes share methods", "sites:\n  - {hosts: a.duckdns.org, routes: [{path: /a, methods: GET, upstream: 'app:80'}, {path: /a, upstream: 'app:81'}]}\n", func(c *Config) any { return len(c.Sites[0].Routes) }, 2},
		{"a prefix is a whole segment", "sites:\n  - {hosts: a.duckdns.org, routes: [{path: /api/*, upstream: 'app:80'}, {path: /apix, upstream: 'app:81'}]}\n", func(c *Config) any { return len(c.Sites[0].Routes) }, 2},
		{"respond defaults", "sites:\n  - {hosts: a.duckdns.org, routes: [{respond: {}}]}\n", func(c *Config) any { return *c.Sites[0].Routes[0].Respond }, Respond{200, "", "text/plain; charset=utf-8"}},
		{"bodies are inherited", "limits: {body: 1m}\nsites:\n  - {hosts: a.duckdns.org, routes: [{path: /a, respond: {}}, {path: /b, max_body: 0, respond: {}}]}\n", func(c *Config) any {
			return fmt.Sprint(*c.Sites[0].MaxBody, *c.Sites[0].Routes[0].MaxBody, *c.Sites[0].Routes[1].MaxBody)
		}, "1m 1m 0"},
		{"timeouts are inherited", "sites:\n  - {hosts: a.duckdns.org, timeout: {response: 0}, routes: [{upstream: 'app:80', timeout: {idle: 9s}}]}\n", func(c *Config) any {
			to := c.Sites[0].Routes[0].Timeout
			return fmt.Sprint(*to.Connect, *to.Response, *to.Idle)
		}, "3s 0s 9s"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := cmp.Diff(tc.want, tc.get(mustParse(t, tc.src))); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	const mail = "email: me@mail.net\n"
	for _, tc := range []struct{ name, src, want string }{
		{"none", mail + oneSite, ""},
		{"no email", oneSite, ":1: email: is not set"},
		{"no email needed", "tls: {issuer: local}\n" + oneSite, ""},
		{"example email", "email: me@example.org\n" + oneSite, ":1: email: Let's Encrypt refuses addresses at example.org"},
		{"redirect without https", mail + "listen: {https: ''}\n" + oneSite + "    http: redirect\n", ":6: sites[0].http: listen.https is off here"},
		{"serve without http", mail + "listen: {http: ''}\n" + oneSite + "    http: serve\n", ":6: sites[0].http: listen.http is off"},
		{"hsts without https", mail + "listen: {https: ''}\n" + oneSite + "    hsts: true\n", ":6: sites[0].hsts: listen.https is off"},
		{"files without https", mail + "listen: {https: ''}\n" + oneSite + "    tls: {cert: a, key: b}\n", ":6: sites[0].tls: listen.https is off"},
		{"preload", mail + oneSite + "    hsts: {preload: true}\n", ":5: sites[0].hsts: preload lists want"},
		{"everybody trusted", mail + "trusted_proxies:\n  - 0.0.0.0/0\n" + oneSite, ":3: trusted_proxies[0]: 0.0.0.0/0 is everybody"},
		{"everybody spared", mail + "guard: {allow: '::/0'}\n" + oneSite, ":2: guard.allow: ::/0 is everybody"},
		{"log file without access", mail + "log: {access: false, file: a.log}\n" + oneSite, ":2: log.file: log.access is false"},
		{"challenge off", mail + "listen: {http: ''}\ntls: {acme: {challenges: [http-01, tls-alpn-01]}}\n" + oneSite, ":3: tls.acme.challenges[0]: http-01 needs listen.http"},
		{"staging", mail + "tls: {acme: {directory: 'https://acme-staging-v02.api.letsencrypt.org/directory'}}\n" + oneSite, ":2: tls.acme.directory: this is Let's Encrypt's staging authority"},
		{"allowed but not served", mail + "tls: {on_demand: {allow: [x.duckdns.org]}}\n" + oneSite, ":2: tls.on_demand.allow[0]: no site has a host that covers x.duckdns.org"},
		{"served but not allowed", mail + "tls: {on_demand: {allow: [a.duckdns.org]}}\nsites:\n  - hosts: [a.duckdns.org, '*.b.duckdns.org']\n    upstream: 127.0.0.1:3000\n", ":4: sites[0].hosts[1]: tls.on_demand allows no name"},
		{"wildcard by ask", mail + "tls: {on_demand: {ask: 'http://127.0.0.1/a'}}\nsites:\n  - hosts: ['*.b.duckdns.org']\n    upstream: 127.0.0.1:3000\n", ""},
		{"circle", mail + "sites:\n  - hosts: [a.duckdns.org]\n    upstream: https://a.duckdns.org\n", ":4: sites[0].upstream: \"https://a.duckdns.org\" is a host that postern itself serves"},
		{"trailing slash", mail + "sites:\n  - hosts: [a.duckdns.org]\n    routes:\n      - {path: /api/, respond: {}}\n", ":5: sites[0].routes[0].path: takes /api/ alone"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, w := range mustParse(t, tc.src).Warnings {
				got = append(got, w.String())
			}
			all := strings.Join(got, "\n")
			if tc.want == "" && len(got) > 0 || tc.want != "" && (len(got) != 1 || !strings.Contains(all, tc.want)) {
				t.Errorf("got %q, want %q", all, tc.want)
			}
		})
	}
}

func TestDataFolder(t *testing.T) {
	for _, tc := range []struct {
		name string
		uid  int
		vars map[string]string
		want string
	}{
		{"root", 0, map[string]string{"HOME": "/root"}, "/var/lib/postern"},
		{"home", 1000, map[string]string{"HOME": "/home/pi"}, "/home/pi/.local/share/postern"},
		{"xdg", 1000, map[string]string{"HOME": "/home/pi", "XDG_DATA_HOME": "/data"}, "/data/postern"},
		{"relative xdg does not count", 1000, map[string]string{"HOME": "/home/pi", "XDG_DATA_HOME": "data"}, "/home/pi/.local/share/postern"},
		{"systemd", 0, map[string]string{"STATE_DIRECTORY": "/var/lib/front:/var/lib/other"}, "/var/lib/front"},
		{"nothing", 1000, nil, ""},
	} {
		env := environment{uid: tc.uid, getenv: func(k string) (string, bool) { v, ok := tc.vars[k]; return v, ok }}
		if got := env.dataFolder(); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
		_, err := parse("p.yaml", []byte(oneSite), env)
		if (err != nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), "p.yaml:1: data: no folder") {
			t.Errorf("%s: error %v", tc.name, err)
		}
	}
}

func TestPathsAreAbsolute(t *testing.T) {
	cfg, err := parse("p.yaml", []byte("data: state\nsites:\n  - hosts: [a.duckdns.org]\n    upstream: unix:a.sock\n"), testEnv())
	if err != nil {
		t.Fatal(err)
	}
	sock, _ := strings.CutPrefix(cfg.Sites[0].Upstream[0], "unix:")
	if !filepath.IsAbs(cfg.Data) || !filepath.IsAbs(sock) {
		t.Errorf("%s %s", cfg.Data, sock)
	}
}

func TestSecretFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("0123456789abcdef\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	src := "admin: {token_file: token}\n" + oneSite
	cfg, err := parse(filepath.Join(dir, "postern.yaml"), []byte(src), testEnv())
	if err != nil || cfg.Admin.Token.Reveal() != "0123456789abcdef" {
		t.Errorf("%v %v", cfg, err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "postern.yaml")
	if err := os.WriteFile(path, []byte("data: /data\n"+oneSite), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(path)
	if err != nil || cfg.File != path || cfg.Data != "/data" {
		t.Errorf("%+v %v", cfg, err)
	}
	for name, want := range map[string]string{dir: "a folder, want a file", path + "x": "no such file"} {
		var es Errors
		if _, err := Load(name); !errors.As(err, &es) || len(es) != 1 || !strings.HasPrefix(err.Error(), name+": "+want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(path, []byte("#"+strings.Repeat(" ", maxFile)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "larger than 1 MiB") {
		t.Error(err)
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	here, system, other := filepath.Join(dir, "postern.yaml"), filepath.Join(dir, "etc.yaml"), filepath.Join(dir, "other.yaml")
	getenv := func(path string) func(string) (string, bool) {
		return func(k string) (string, bool) { return path, k == "POSTERN_CONFIG" && path != "" }
	}
	_, err := find("", getenv(""), here, system)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{here, system, "$POSTERN_CONFIG", "--config", "proxy run --host", fiveLines} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	for _, p := range []string{system, here, other} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := find("", getenv(""), here, system); p != other && (got != p || err != nil) {
			t.Errorf("got %q %v, want %q", got, err, p)
		}
	}
	if got, err := find("", getenv(other), here, system); got != other || err != nil {
		t.Errorf("environment: got %q %v", got, err)
	}
	if got, err := find(system, getenv(other), here, system); got != system || err != nil {
		t.Errorf("flag: got %q %v", got, err)
	}
	for _, f := range []func() (string, error){
		func() (string, error) { return find(other+"x", getenv(""), here) },
		func() (string, error) { return find("", getenv(other+"x"), here) },
	} {
		if _, err := f(); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), other+"x") {
			t.Errorf("a named file that is missing: %v", err)
		}
	}
}

func TestMinimal(t *testing.T) {
	cfg, err := minimal("MyPi.duckdns.org", "127.0.0.1:3000", testEnv())
	if err != nil || cfg.Sites[0].Hosts[0] != "mypi.duckdns.org" || cfg.Sites[0].HTTP != "redirect" || cfg.Data == "" {
		t.Errorf("%+v %v", cfg, err)
	}
	if got := fmt.Sprint(cfg.Warnings); !strings.HasPrefix(got, "[email: is not set") {
		t.Errorf("warnings %s", got)
	}
	_, err = minimal("mypi.duckdns.com:443", "localhost", testEnv())
	want := `--host: "mypi.duckdns.com:443" is more than a host; write the host alone: mypi.duckdns.com
--to: "localhost" has no port; write localhost:3000 with the port of your app`
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	for _, tc := range [][2]string{{"", "127.0.0.1:3000"}, {"mypi.duckdns.org", ""}, {"mypi.duckdns.org", "127.0.0.1:443"}, {"*.duckdns.org", "a:1"}} {
		if _, err := minimal(tc[0], tc[1], testEnv()); err == nil || !strings.HasPrefix(err.Error(), "--") || strings.Contains(err.Error(), "line") {
			t.Errorf("%q: %v", tc, err)
		}
	}
}

// TestBomb unfolds aliases to a million and more values; the reader must stop
// early and say why.
func TestBomb(t *testing.T) {
	many := func(what string, n int) string { return strings.TrimSuffix(strings.Repeat(what+", ", n), ", ") }
	src := "sites:\n  - hosts: [a.duckdns.org]\n    routes: &r\n      - {path: /a, methods: &m [" + many("GET", 500) + "], respond: {}}\n" +
		strings.Repeat("      - {path: /a, methods: *m, respond: {}}\n", 400) +
		strings.Repeat("  - {hosts: [a.duckdns.org], routes: *r}\n", 400)
	_, err := parse("p.yaml", []byte(src), testEnv())
	if err == nil || !strings.Contains(err.Error(), "unfolds to more than") {
		t.Errorf("%.300v", err)
	}
	checkErrors(t, []byte(src), err)
}

// TestDeep gives the YAML parser what it takes quadratic time for.
func TestDeep(t *testing.T) {
	for _, s := range []string{"[", "{a: ", "- ", "? ", "!!a ", "&a ", "a: [", "[{"} {
		src := strings.Repeat(s, 100_000/len(s))
		start := time.Now()
		_, err := parse("p.yaml", []byte(src), testEnv())
		if err == nil {
			t.Errorf("%q: no error", s)
		}
		checkErrors(t, []byte(src), err)
		t.Logf("%q: %v, %.80v", s, time.Since(start), err)
	}
}

func TestErrors(t *testing.T) {
	_, err := parse("p.yaml", []byte("grace: x\nemail: y\n"), testEnv())
	var one Error
	if !errors.As(err, &one) || one.Line != 1 || one.Key != "grace" || one.File != "p.yaml" {
		t.Errorf("%+v", one)
	}
	if got := strings.Count(err.Error(), "\n") + 1; got != 3 { // no sites is the third
		t.Errorf("%d lines in %v", got, err)
	}
}

func TestDefaultIsFresh(t *testing.T) {
	a, b := Default(), Default()
	a.Guard.Never[0] = netip.Prefix{}
	a.TLS.ACME[0].Challenges[0] = "x"
	if slices.Equal(a.Guard.Never, b.Guard.Never) || b.TLS.ACME[0].Challenges[0] == "x" {
		t.Error("two defaults share memory")
	}
}
