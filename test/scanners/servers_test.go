package scanners

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// layout is how much of the backend is offered.
type layout int

const (
	// declared offers two routes, and nothing else.
	declared layout = iota
	// open passes every path on, as the backend's own 404 is wanted, but says
	// that strangers may send anything here (postern's open: true).
	open
	// everything passes every path on, and says nothing about it.
	everything
)

// server is a front door under test.
type server struct {
	addr string
	// seen is how many requests of the scanner its access log has, and banned
	// whether the scanner was.
	seen   func() int
	banned func() bool
}

// startPostern runs the binary with its defaults, but that loopback may be
// banned.
func startPostern(t *testing.T, l layout, b *backend) server {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	routes := `
      - {path: /api/*, upstream: %[1]q}
      - {path: /healthz, upstream: %[1]q}`
	if l != declared {
		routes = `
      - {path: /*, open: ` + strconv.FormatBool(l == open) + `, upstream: %[1]q}`
	}
	file := write(t, dir, "postern.yaml", fmt.Sprintf(`
listen: {http: "127.0.0.1:0", https: ""}
admin: {listen: ""}
data: %q
dns: {doh: []}
guard: {never: [], aws_ranges: "off"}
sites:
  - hosts: [127.0.0.1]
    routes:`, filepath.Join(dir, "data"))+fmt.Sprintf(routes, b.URL)+"\n")
	p := run(t, dir, binary, "run", "--config", file)
	var addr string
	eventually(t, "postern serves", func() bool {
		addr = servedAt(p.text())
		return addr != ""
	})
	seen := func() int { return strings.Count(p.text(), `"client":"127.0.0.1"`) }
	return server{addr: addr, seen: seen, banned: func() bool { return strings.Contains(p.text(), `"msg":"banned"`) }}
}

// servedAt finds the address in the log's line of the start.
func servedAt(log string) string {
	for line := range strings.Lines(log) {
		var entry struct {
			Msg  string   `json:"msg"`
			HTTP []string `json:"http"`
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "serving" && len(entry.HTTP) == 1 {
			return entry.HTTP[0]
		}
	}
	return ""
}

// startNginx runs Debian's nginx with Debian's fail2ban: its jails for nginx as
// they are shipped, and one of the kind people add, for 10 answers of 404 in 10
// minutes. As loopback has no firewall here, a ban is a line for nginx's deny.
func startNginx(t *testing.T, l layout, b *backend) server {
	t.Helper()
	nginx, fail2ban := program(t, "nginx"), program(t, "fail2ban-server")
	dir := t.TempDir()
	port := freePort(t)
	deny := write(t, dir, "deny.conf", "")
	access := write(t, dir, "access.log", "")
	problems := write(t, dir, "error.log", "")
	locations := fmt.Sprintf(`location /api/ { proxy_pass %[1]s; } location = /healthz { proxy_pass %[1]s; } location / { return 404; }`, b.URL)
	if l != declared {
		locations = fmt.Sprintf(`location / { proxy_pass %s; }`, b.URL)
	}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;"
	}
	conf := write(t, dir, "nginx.conf", fmt.Sprintf(`
%[1]s
daemon off;
pid %[2]s/nginx.pid;
error_log %[5]s;
events {}
http {
	access_log %[4]s;
	client_body_temp_path %[2]s/body;
	proxy_temp_path %[2]s/proxy;
	fastcgi_temp_path %[2]s/fastcgi;
	uwsgi_temp_path %[2]s/uwsgi;
	scgi_temp_path %[2]s/scgi;
	server {
		listen 127.0.0.1:%[3]s;
		include %[2]s/deny.conf;
		%[6]s
	}
}
`, user, dir, port, access, problems, locations))
	run(t, dir, nginx, "-p", dir, "-c", conf)
	startFail2ban(t, fail2ban, dir, deny, access, problems, []string{nginx, "-p", dir, "-c", conf, "-s", "reload"})
	seen := func() int {
		text, _ := os.ReadFile(access) // nothing of it is nothing seen
		return strings.Count("\n"+string(text), "\n127.0.0.1 ")
	}
	s := server{addr: "127.0.0.1:" + port, seen: seen, banned: func() bool {
		text, err := os.ReadFile(deny)
		return err == nil && len(text) > 0
	}}
	eventually(t, "nginx serves", func() bool { return reachable(s.addr) })
	return s
}

// startFail2ban runs it from a copy of its configuration.
func startFail2ban(t *testing.T, server, dir, deny, access, problems string, reload []string) {
	t.Helper()
	etc := filepath.Join(dir, "fail2ban")
	if out, err := exec.Command("cp", "-r", "/etc/fail2ban", etc).CombinedOutput(); err != nil {
		missing(t, fmt.Sprintf("the configuration of fail2ban: %v: %s", err, out))
	}
	for _, name := range []string{"jail.d/defaults-debian.conf", "jail.local", "fail2ban.local"} {
		_ = os.Remove(filepath.Join(etc, name)) // may be absent
	}
	write(t, etc, "fail2ban.local", fmt.Sprintf(`[Definition]
logtarget = STDOUT
socket = %[1]s/f2b.sock
pidfile = %[1]s/f2b.pid
dbfile = None
`, dir))
	write(t, etc, "action.d/nginx-deny.conf", fmt.Sprintf(`[Definition]
actionstart =
actionstop =
actioncheck =
actionban = echo "deny <ip>;" >> %[1]s && %[2]s
actionunban = sed -i "/deny <ip>;/d" %[1]s && %[2]s
`, deny, strings.Join(reload, " ")))
	write(t, etc, "filter.d/nginx-404.conf", "[Definition]\nfailregex = ^<HOST> - \\S+ \\[[^]]*\\] \"[^\"]*\" 404\n")
	write(t, etc, "jail.local", fmt.Sprintf(`[DEFAULT]
ignoreself = false
ignoreip =
banaction = nginx-deny
banaction_allports = nginx-deny
action = nginx-deny
backend = auto

[nginx-botsearch]
enabled = true
logpath = %[1]s

[nginx-bad-request]
enabled = true
logpath = %[1]s

[nginx-http-auth]
enabled = true
logpath = %[2]s

[nginx-limit-req]
enabled = true
logpath = %[2]s

[nginx-404]
enabled = true
filter = nginx-404
logpath = %[1]s
maxretry = 10
findtime = 10m
`, access, problems))
	p := run(t, dir, server, "-f", "-c", etc, "-s", dir+"/f2b.sock", "-p", dir+"/f2b.pid", "start")
	eventually(t, "fail2ban watches", func() bool { return strings.Count(p.text(), "started") >= 5 })
}
