package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// commands are what scripts may call beyond testscript's own.
//
//	postern [-as NAME] [KEY=VALUE...] ARGS...   start it, wait until it serves; sets HTTP, HTTPS, ADMIN
//	starts CODE [KEY=VALUE...] PROGRAM ARGS...  run it to its end, want the exit code, or one of several (0|1)
//	keep NAME                                   set NAME to what was printed to standard output
//	signal [NAME] TERM|INT|HUP|USR1             send a signal
//	exits [NAME] CODE                           wait for its end, want the exit code
//	[!] log [-in NAME] REGEXP                   wait for it in what comes next; !: it is nowhere so far
//	backend NAME [ADDR|stop|start]              an app that tells what it was asked; sets NAME
//	holds NAME                                  wait until a request to /hold arrived
//	release NAME                                answer it
//	get [-until] [-X M] [-d BODY] [-H FIELD]... [-start CALL] URL STATUS|cut|refused
//	got CALL STATUS|cut                         wait for the answer to get -start
//	speak 1|2                                   HTTP/1.1 or HTTP/2
//	trust FILE                                  verify with these roots
//	raw http|https NAME BYTES...                send lines, print what comes back (\r\n between)
//	notified                                    be systemd; sets NOTIFY_SOCKET
//	notified TEXT                               wait until systemd was told
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"postern":  cmdPostern,
	"starts":   cmdStarts,
	"keep":     cmdKeep,
	"signal":   cmdSignal,
	"exits":    cmdExits,
	"log":      cmdLog,
	"backend":  cmdBackend,
	"holds":    cmdHolds,
	"release":  cmdRelease,
	"get":      cmdGet,
	"got":      cmdGot,
	"speak":    cmdSpeak,
	"trust":    cmdTrust,
	"raw":      cmdRaw,
	"notified": cmdNotified,
}

func sceneOf(ts *testscript.TestScript, neg bool) *scene {
	if neg {
		ts.Fatalf("! means nothing here")
	}
	return ts.Value(sceneKey{}).(*scene)
}

// assignments cuts KEY=VALUE words off the front.
func assignments(args []string) (env, rest []string) {
	for len(args) > 0 && regexp.MustCompile(`^[A-Z_]+=`).MatchString(args[0]) {
		env, args = append(env, args[0]), args[1:]
	}
	return env, args
}

// option cuts "-name VALUE" off the front.
func option(args []string, name string) (value string, rest []string) {
	if len(args) >= 2 && args[0] == name {
		return args[1], args[2:]
	}
	return "", args
}

func (s *scene) process(ts *testscript.TestScript, name string) *process {
	if name == "" {
		name = "postern"
	}
	p := s.processes[name]
	if p == nil {
		ts.Fatalf("nothing called %s was started", name)
	}
	return p
}

// ready is the line that says where a postern listens, in each of its forms.
var ready = regexp.MustCompile(`(?m)^(.*(?:"msg":"serving"|msg=serving) ?.*|Serving https://localhost:.*)$`)

// listens find the addresses in it.
var listens = map[string]*regexp.Regexp{
	"HTTP":  regexp.MustCompile(`"http":\["([^"]+)"|http="?\[(\S+?)\]"?(?: |$)|and http://([^ ]+)`),
	"HTTPS": regexp.MustCompile(`"https":\["([^"]+)"|https="?\[(\S+?)\]"?(?: |$)|Serving https://([^ ]+)`),
	"ADMIN": regexp.MustCompile(`"admin":"([^"]+)"|admin=(\S+)`),
}

func cmdPostern(ts *testscript.TestScript, neg bool, args []string) {
	s := sceneOf(ts, neg)
	name, args := option(args, "-as")
	if name == "" {
		name = "postern"
	}
	env, args := assignments(args)
	path, err := exec.LookPath("proxy")
	ts.Check(err)
	cmd := exec.Command(path, args...)
	s.place(ts, cmd, env)
	p, err := s.start(name, cmd)
	ts.Check(err)
	m, text := p.log.wait(ready, 0)
	if m == nil {
		ts.Fatalf("it does not serve:\n%s", text)
	}
	line := string(text[m[0]:m[1]])
	for key, find := range listens {
		value := ""
		if found := find.FindStringSubmatch(line); found != nil {
			value = strings.Join(found[1:], "") // one of them matched
		}
		s.setenv(ts, key, value)
	}
	s.http, s.https = ts.Getenv("HTTP"), ts.Getenv("HTTPS")
	root := filepath.Join(s.dir, "data", "local-ca", "root.pem")
	_ = s.trust(root) // not every script has one
}

// place gives cmd the script's folder and environment.
func (s *scene) place(ts *testscript.TestScript, cmd *exec.Cmd, env []string) {
	cmd.Dir = ts.MkAbs(".")
	for _, key := range s.env {
		cmd.Env = append(cmd.Env, key+"="+ts.Getenv(key))
	}
	cmd.Env = append(cmd.Env, env...)
}

func cmdStarts(ts *testscript.TestScript, neg bool, args []string) {
	s := sceneOf(ts, neg)
	if len(args) < 2 {
		ts.Fatalf("usage: starts CODE [KEY=VALUE...] PROGRAM ARGS...")
	}
	want := strings.Split(args[0], "|")
	env, args := assignments(args[1:])
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	s.place(ts, cmd, env)
	cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		ts.Fatalf("%s: %v", args[0], err)
	}
	if got := strconv.Itoa(cmd.ProcessState.ExitCode()); !slices.Contains(want, got) {
		ts.Fatalf("exit code %s, want %s", got, want)
	}
}

func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	s := sceneOf(ts, neg)
	name := ""
	if len(args) == 2 {
		name, args = args[0], args[1:]
	}
	if len(args) != 1 || unix.SignalNum("SIG"+args[0]) == 0 {
		ts.Fatalf("usage: signal [NAME] TERM|INT|HUP|USR1")
	}
	ts.Check(s.process(ts, name).cmd.Process.Signal(unix.SignalNum("SIG" + args[0])))
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	s := sceneOf(ts, neg)
	name := ""
	if len(args) == 2 {
		name, args = args[0], args[1:]
	}
	if len(args) != 1 {
		ts.Fatalf("usage: exits [NAME] CODE")
	}
	p := s.process(ts, name)
	select {
	case <-p.ended:
	case <-time.After(patience):
		ts.Fatalf("it runs on:\n%s", p.log)
	}
	if got := strconv.Itoa(p.cmd.ProcessState.ExitCode()); got != args[0] {
		ts.Fatalf("exit code %s, want %s:\n%s", got, args[0], p.log)
	}
}

func cmdLog(ts *testscript.TestScript, neg bool, args []string) {
	s := sceneOf(ts, false)
	name, args := option(args, "-in")
	if len(args) != 1 {
		ts.Fatalf("usage: [!] log [-in NAME] REGEXP")
	}
	p := s.process(ts, name)
	want, err := regexp.Compile("(?m)^.*(?:" + args[0] + ").*$")
	ts.Check(err)
	if neg {
		if found := want.FindString(p.log.String()); found != "" {
			ts.Fatalf("it is there: %s", found)
		}
		return
	}
	m, text := p.log.wait(want, p.mark)
	if m == nil {
		ts.Fatalf("not in what came after the last match:\n%s", text[min(p.mark, len(text)):])
	}
	fmt.Fprintf(ts.Stdout(), "%s\n", text[m[0]:m[1]])
	p.mark = m[1] + 1
}

func cmdBackend(ts *testscript.TestScript, neg bool, args []string) {
	s := sceneOf(ts, neg)
	if len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: backend NAME [ADDR|stop|start]")
	}
	name, addr := args[0], "127.0.0.1:0"
	if len(args) == 2 {
		addr = args[1]
	}
	switch old := s.backends[name]; {
	case addr == "stop" && old != nil:
		old.stop()
		return
	case addr == "start" && old != nil:
		addr = old.addr
	}
	b, err := startBackend(name, addr)
	ts.Check(err)
	s.backends[name] = b
	s.setenv(ts, name, b.addr)
}

// setenv sets a variable for the script and for what it starts.
func (s *scene) setenv(ts *testscript.TestScript, key, value string) {
	ts.Setenv(key, value)
	if !slices.Contains(s.env, key) {
		s.env = append(s.env, key)
	}
}

func (s *scene) backend(ts *testscript.TestScript, args []string) *backend {
	if len(args) != 1 || s.backends[args[0]] == nil {
		ts.Fatalf("want the name of a backend, got %q", args)
	}
	return s.backends[args[0]]
}

func cmdKeep(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: keep NAME")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

func cmdHolds(ts *testscript.TestScript, neg bool, args []string) {
	b := sceneOf(ts, neg).backend(ts, args)
	select {
	case <-b.held:
	case <-time.After(patience):
		ts.Fatalf("no request to /hold came")
	}
}

func cmdRelease(ts *testscript.TestScript, neg bool, args []string) {
	sceneOf(ts, neg).backend(ts, args).release <- struct{}{}
}

// dial goes to the running postern for the ports that URLs without one have,
// and to this machine for the others.
func (s *scene) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	switch _, port, _ := net.SplitHostPort(addr); port {
	case "80":
		addr = s.http
	case "443":
		addr = s.https
	default:
		addr = "127.0.0.1:" + port
	}
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

func cmdGet(ts *testscript.TestScript, neg bool, args []string) {
	s := sceneOf(ts, neg)
	method, body, call := http.MethodGet, "", ""
	var fields []string
	until := len(args) > 0 && args[0] == "-until"
	if until {
		args = args[1:]
	}
	for len(args) > 2 {
		switch args[0] {
		case "-X":
			method = args[1]
		case "-d":
			method, body = http.MethodPost, args[1]
		case "-H":
			fields = append(fields, args[1])
		case "-start":
			call = args[1]
		default:
			ts.Fatalf("get: unknown option %s", args[0])
		}
		args = args[2:]
	}
	if call != "" && len(args) == 1 {
		args = append(args, "")
	}
	if len(args) != 2 {
		ts.Fatalf("usage: get [-X M] [-d BODY] [-H FIELD]... [-start CALL] URL STATUS|cut|refused")
	}
	req, err := http.NewRequest(method, args[0], strings.NewReader(body))
	ts.Check(err)
	for _, f := range fields {
		key, value, _ := strings.Cut(f, ": ")
		req.Header.Add(key, value)
	}
	if until {
		s.askUntil(req, args[1])
	}
	if call == "" {
		judge(ts, s.ask(req), args[1])
		return
	}
	answers := make(chan *answer, 1)
	s.calls[call] = answers
	go func() { answers <- s.ask(req) }() // the client's timeout ends it
}

// askUntil asks until the status is want, or patience is over.
func (s *scene) askUntil(req *http.Request, want string) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		if a := s.ask(req); strconv.Itoa(a.status) == want {
			return
		}
	}
}

func (s *scene) ask(req *http.Request) *answer {
	conn := "new"
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if i.Reused {
			conn = "reused"
		}
	}}
	res, err := s.client.Do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	if err != nil {
		return &answer{err: err}
	}
	a := readAnswer(res)
	a.text = "connection: " + conn + "\n" + a.text
	return a
}

func cmdGot(ts *testscript.TestScript, neg bool, args []string) {
	s := sceneOf(ts, neg)
	if len(args) != 2 || s.calls[args[0]] == nil {
		ts.Fatalf("usage: got CALL STATUS|cut, after get -start CALL")
	}
	judge(ts, <-s.calls[args[0]], args[1])
}

func judge(ts *testscript.TestScript, a *answer, want string) {
	fmt.Fprint(ts.Stdout(), a.text)
	switch {
	case a.err != nil && errors.Is(a.err, syscall.ECONNREFUSED):
		if want != "refused" {
			ts.Fatalf("%v, want %s", a.err, want)
		}
	case a.err != nil && want != "cut":
		ts.Fatalf("%v, want %s", a.err, want)
	case a.err == nil && strconv.Itoa(a.status) != want:
		ts.Fatalf("status %d, want %s\n%s", a.status, want, a.text)
	}
}

func cmdSpeak(ts *testscript.TestScript, neg bool, args []string) {
	s := sceneOf(ts, neg)
	if len(args) != 1 {
		ts.Fatalf("usage: speak 1|2")
	}
	roots := s.client.Transport.(*http.Transport).TLSClientConfig.RootCAs
	s.newClient(args[0] == "2")
	s.client.Transport.(*http.Transport).TLSClientConfig.RootCAs = roots
}

func cmdTrust(ts *testscript.TestScript, neg bool, args []string) {
	s := sceneOf(ts, neg)
	if len(args) != 1 {
		ts.Fatalf("usage: trust FILE")
	}
	ts.Check(s.trust(ts.MkAbs(args[0])))
}

func cmdRaw(ts *testscript.TestScript, neg bool, args []string) {
	s := sceneOf(ts, neg)
	if len(args) < 2 {
		ts.Fatalf("usage: raw http|https NAME LINES...")
	}
	addr := s.http
	if args[0] == "https" {
		addr = s.https
	}
	conn, err := net.DialTimeout("tcp", addr, patience)
	ts.Check(err)
	defer conn.Close()
	if args[0] == "https" {
		roots := s.client.Transport.(*http.Transport).TLSClientConfig.RootCAs
		secure := tls.Client(conn, &tls.Config{ServerName: args[1], RootCAs: roots, InsecureSkipVerify: args[1] == ""})
		if err := secure.Handshake(); err != nil {
			fmt.Fprintf(ts.Stdout(), "handshake refused: %v\n", err)
			return
		}
		conn = secure
	}
	ts.Check(conn.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(conn, strings.Join(args[2:], "\r\n")+"\r\n")
	ts.Check(err)
	got, err := io.ReadAll(conn)
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		ts.Fatalf("it holds the connection open")
	}
	fmt.Fprintf(ts.Stdout(), "%s\n(closed)\n", strings.ReplaceAll(string(got), "\r\n", "\n"))
}

func cmdNotified(ts *testscript.TestScript, neg bool, args []string) {
	s := sceneOf(ts, neg)
	if len(args) == 0 { // listen
		path := filepath.Join(s.dir, "notify.sock")
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		ts.Check(err)
		s.notify = l
		s.setenv(ts, "NOTIFY_SOCKET", path)
		return
	}
	ts.Check(s.notify.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 4096)
	for {
		n, err := s.notify.Read(buf)
		if err != nil {
			ts.Fatalf("systemd was not told %q: %v", args[0], err)
		}
		fmt.Fprintf(ts.Stdout(), "%s\n", buf[:n])
		if strings.Contains(string(buf[:n]), args[0]) {
			return
		}
	}
}
