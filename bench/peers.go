package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/buildinfo"
	"embed"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"
)

//go:embed peers
var configs embed.FS

// A peer is a proxy that can take part.
type peer struct {
	name    string
	program string // found on PATH, or built: see locate
	config  string // template in peers/, also the name of the file it becomes
	args    func(program, file string) []string
	test    []string // arguments that print the version
	version *regexp.Regexp
	reload  syscall.Signal
	files   func(s *setup) map[string]string // more files, by name
	ban     func(s *setup) error             // makes s.Deny banned; nil: the config does
	noBans  string                           // why it does not take part with s.Bans; "": it does
}

// peerNames is the order of the peers, in turns and in tables.
var peerNames = []string{"postern", "nginx", "haproxy", "caddy"} // read only

// base is the peer that ratios are to.
const base = "nginx"

func peerByName(name string) *peer {
	switch name {
	case "postern":
		return &peer{
			name: name, program: "postern", config: "postern.yaml", reload: syscall.SIGHUP, ban: banByJunk, files: posternFiles,
			args: func(program, file string) []string { return []string{program, "run", "-c", file} },
			test: []string{"version"}, version: regexp.MustCompile(`^postern (\S+ \S+)`),
		}
	case "nginx":
		return &peer{
			name: name, program: "nginx", config: "nginx.conf", reload: syscall.SIGHUP, files: nginxFiles,
			args: func(program, file string) []string {
				return []string{program, "-p", filepath.Dir(file), "-e", filepath.Join(filepath.Dir(file), "nginx.error.log"), "-c", file}
			},
			test: []string{"-v"}, version: regexp.MustCompile(`nginx/(\S+)`),
		}
	case "haproxy":
		return &peer{
			name: name, program: "haproxy", config: "haproxy.cfg", reload: syscall.SIGUSR2, files: haproxyFiles,
			args: func(program, file string) []string { return []string{program, "-W", "-f", file} },
			test: []string{"-v"}, version: regexp.MustCompile(`version ([0-9.]+)`),
		}
	case "caddy":
		return &peer{
			name: name, program: "caddy", config: "Caddyfile", reload: syscall.SIGUSR1, noBans: "its stock build looks through a list of addresses one by one",
			args: func(program, file string) []string {
				return []string{program, "run", "--config", file, "--adapter", "caddyfile"}
			},
			test: []string{"version"}, version: regexp.MustCompile(`v(\d\S*)`),
		}
	}
	return nil
}

// contestant is a peer that is installed.
type contestant struct {
	*peer
	path  string
	about string // version
}

// locate finds the peers that are installed and says why others are not.
func locate(names []string, postern string) (found []*contestant, missing map[string]string, err error) {
	if len(names) == 0 {
		names = peerNames
	}
	missing = make(map[string]string)
	for _, name := range names {
		p := peerByName(name)
		if p == nil {
			return nil, nil, fmt.Errorf("-peers: %q, want some of %s", name, strings.Join(peerNames, ", "))
		}
		path := postern
		if name != "postern" {
			if path, err = exec.LookPath(p.program); err != nil {
				missing[name] = "not installed: " + p.program + " is not on PATH"
				continue
			}
		}
		found = append(found, &contestant{peer: p, path: path, about: p.versionOf(path)})
	}
	if len(found) == 0 {
		return nil, nil, errors.New("no proxy to measure")
	}
	return found, missing, nil
}

// versionOf returns the version of a program, by what it says or by what the Go
// toolchain wrote into it.
func (p *peer) versionOf(path string) string {
	if out, err := exec.Command(path, p.test...).CombinedOutput(); err == nil {
		if m := p.version.FindSubmatch(out); m != nil {
			return string(m[1])
		}
	}
	if info, err := buildinfo.ReadFile(path); err == nil {
		return info.Main.Version + " " + info.GoVersion
	}
	return "version unknown"
}

// setup is what the templates in peers/ are made for.
type setup struct {
	Dir, Cert, Key       string
	Backend              string // host:port
	HTTP, HTTPS, Admin   int    // ports on 127.0.0.1
	Workers              int    // 1, or as many as there are cores
	Files, Connections   int
	Root                 bool
	Log, Guard           bool
	Hosts, Routes        []string
	Deny                 string // a client that is banned; "" for none
	Spare                string // a client that postern never bans; "" for none
	Bans                 int    // further addresses that are banned, none of which asks
	env                  []string
	httpsAddr, clearAddr string
}

// running is a proxy at work.
type running struct {
	*contestant
	*child
	setup *setup
}

// launch starts c in a folder of its own and waits until it serves.
func launch(ctx context.Context, c *contestant, s setup, dir string) (*running, error) {
	if s.Bans > 0 && c.noBans != "" {
		return nil, errors.New(c.noBans)
	}
	s.Dir = dir
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for _, port := range []*int{&s.HTTP, &s.HTTPS, &s.Admin} {
		var err error
		if *port, err = freePort(); err != nil {
			return nil, err
		}
	}
	s.httpsAddr = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.HTTPS))
	s.clearAddr = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.HTTP))
	s.env = []string{"GOMAXPROCS=" + strconv.Itoa(s.Workers), "HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}
	if err := c.write(&s); err != nil {
		return nil, err
	}
	proc, err := start(dir, c.name, s.env, c.args(c.path, filepath.Join(dir, c.config))...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	r := &running{c, proc, &s}
	if err := r.await(ctx); err != nil {
		r.end()
		return nil, fmt.Errorf("%s: %w\n%s", c.name, err, r.lastWords())
	}
	if s.Deny != "" && c.ban != nil {
		if err := c.ban(&s); err != nil {
			r.end()
			return nil, fmt.Errorf("%s: ban %s: %w", c.name, s.Deny, err)
		}
	}
	return r, nil
}

// write makes the files of a peer from the templates.
func (c *contestant) write(s *setup) error {
	t, err := template.ParseFS(configs, "peers/"+c.config)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := t.Execute(&text, s); err != nil {
		return err
	}
	all := map[string]string{c.config: text.String()}
	if c.files != nil {
		for name, content := range c.files(s) {
			all[name] = content
		}
	}
	for name, content := range all {
		file := filepath.Join(s.Dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// bannedAddrs returns the addresses of s.Bans, scattered over the network that
// is set aside for benchmarks (RFC 2544).
func (s *setup) bannedAddrs() []netip.Addr {
	out := make([]netip.Addr, s.Bans)
	for i := range out {
		n := 198<<24 | 18<<16 | uint32(i)*9973%(1<<17) // odd: no two meet
		out[i] = netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// posternFiles is the file of bans that a run before would have left.
func posternFiles(s *setup) map[string]string {
	if s.Bans == 0 {
		return nil
	}
	now := time.Now().UTC()
	var b strings.Builder
	fmt.Fprintf(&b, `{"version":1,"saved":%q,"bans":[`, now.Format(time.RFC3339Nano))
	for i, a := range s.bannedAddrs() {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"prefix":"%s/32","reason":"junk","since":%q,"until":%q}`, a, now.Format(time.RFC3339Nano), now.Add(24*time.Hour).Format(time.RFC3339Nano))
	}
	b.WriteString("]}")
	return map[string]string{"data/bans.json": b.String()}
}

// nginxFiles is a radix tree of the addresses, which nginx looks into with the
// request.
func nginxFiles(s *setup) map[string]string {
	var b strings.Builder
	for _, a := range s.bannedAddrs() {
		fmt.Fprintf(&b, "%s 1;\n", a)
	}
	return map[string]string{"bans.geo": b.String()}
}

func haproxyFiles(s *setup) map[string]string {
	var both, hosts, routes strings.Builder
	for _, name := range []string{s.Cert, s.Key} {
		if b, err := os.ReadFile(name); err == nil { // haproxy says what is missing
			both.Write(b)
		}
	}
	for _, h := range s.Hosts {
		fmt.Fprintf(&hosts, "%s app\n", h)
	}
	for _, r := range s.Routes {
		fmt.Fprintf(&routes, "%s/ app\n", r)
	}
	var bans strings.Builder
	for _, a := range s.bannedAddrs() {
		fmt.Fprintf(&bans, "%s\n", a)
	}
	return map[string]string{"bans.acl": bans.String(), "cert-and-key.pem": both.String(), "hosts.map": hosts.String(), "routes.map": routes.String()}
}

// await asks the proxy until it answers.
func (r *running) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	c, err := newClients(&job{Addr: r.setup.httpsAddr, TLS: true, CA: r.setup.Cert, Kind: "h1"})
	if err != nil {
		return err
	}
	j := &job{Hosts: r.setup.Hosts[len(r.setup.Hosts)-1:], Paths: []string{"/"}}
	if len(r.setup.Routes) > 0 {
		j.Paths = []string{r.setup.Routes[0] + "/x"}
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		h := newH1(j, 0, c)
		_, err := h.open()
		if err == nil {
			_, err = h.exchange()
			h.close()
		}
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-r.ended:
			return errors.New("ended before it served")
		case <-ctx.Done():
			return fmt.Errorf("does not serve: %w", err)
		}
	}
}

// banByJunk gets a client banned the way strangers are: it sends what is not
// TLS, and waits until its next connection is refused.
func banByJunk(s *setup) error {
	d := net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(s.Deny)}}
	for range 20 {
		c, err := d.Dial("tcp", s.httpsAddr)
		if errors.Is(err, syscall.ECONNRESET) {
			return nil // refused before connect had even returned
		}
		if err != nil {
			return err
		}
		_ = c.SetDeadline(time.Now().Add(100 * time.Millisecond))
		_, writing := c.Write([]byte("\x03\x00\x00\x2f\x2a\xe0\x00\x00\x00\x00\x00Cookie: mstshash=Administr\r\n"))
		_, reading := c.Read(make([]byte, 1))
		_ = c.Close()
		if errors.Is(writing, syscall.EPIPE) || errors.Is(writing, syscall.ECONNRESET) {
			return nil // refused before a byte was read
		}
		if reading == nil {
			return errors.New("it was answered")
		}
	}
	// The reset may always come after our bytes; what counts is that a good
	// request is refused too.
	cl, err := newClients(&job{Addr: s.httpsAddr, TLS: true, CA: s.Cert, Source: s.Deny, Kind: "h1"})
	if err != nil {
		return err
	}
	if c, _, err := cl.dial(s.Hosts[0], nil); err == nil {
		_ = c.Close()
		return errors.New("it still gets in")
	}
	return nil
}

// domain is what all sites are below.
const domain = "bench.test"

// makeCertificate writes a P-256 certificate for the domain, signed by
// itself.
func makeCertificate(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: domain},
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(7 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{domain, "*." + domain},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return err
	}
	return os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)
}

// buildPostern builds the tree's proxy into dir and returns its path.
func buildPostern(ctx context.Context, root, dir string) (string, error) {
	out := filepath.Join(dir, "postern")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./cmd/proxy")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/proxy: %w\n%s", err, bytes.TrimSpace(text))
	}
	return out, nil
}

// moduleRoot is the folder of postern's go.mod.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "postern").Output()
	if err != nil {
		return "", fmt.Errorf("go list -m postern: %w; run it inside postern's source tree", err)
	}
	return strings.TrimSpace(string(out)), nil
}
