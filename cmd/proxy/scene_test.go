package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"time"
)

// patience is how long anything in a script may take; nothing waits that long
// unless it is broken.
const patience = 20 * time.Second

// scene is what surrounds the command in one script: running posterns,
// backends and a client. Only the script's goroutine uses it.
type scene struct {
	dir       string
	env       []string // the names of the environment's variables
	processes map[string]*process
	backends  map[string]*backend
	calls     map[string]chan *answer // started by get -start
	client    *http.Client
	http      string // host:port where URLs of a scheme go
	https     string
	notify    *net.UnixConn
}

type sceneKey struct{}

func newScene(dir string) *scene {
	s := &scene{dir: dir, processes: map[string]*process{}, backends: map[string]*backend{}, calls: map[string]chan *answer{}}
	s.newClient(true)
	return s
}

func (s *scene) close() {
	s.client.CloseIdleConnections()
	for _, b := range s.backends {
		b.stop()
	}
	for _, p := range s.processes {
		p.kill()
	}
	if s.notify != nil {
		_ = s.notify.Close()
	}
}

// process is a command in the background, and what it said.
type process struct {
	cmd   *exec.Cmd
	log   *logFile
	ended chan struct{} // closed when it has ended
	mark  int           // how far the script has read in log
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

func (s *scene) start(name string, cmd *exec.Cmd) (*process, error) {
	log, err := newLogFile(filepath.Join(s.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, log: log, ended: make(chan struct{})}
	s.processes[name] = p
	go func() { // waited for by kill
		defer close(p.ended)
		_ = cmd.Wait() // ProcessState tells
		log.end()
	}()
	return p, nil
}

// logFile keeps what a process writes, in memory and in a file for grep, and
// wakes who waits for more.
type logFile struct {
	mu    sync.Mutex
	more  *sync.Cond
	file  *os.File
	text  []byte
	ended bool
	late  bool
}

func newLogFile(path string) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	l := &logFile{file: f}
	l.more = sync.NewCond(&l.mu)
	return l, nil
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	l.more.Broadcast()
	return l.file.Write(p)
}

func (l *logFile) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	_ = l.file.Close()
	l.more.Broadcast()
}

// wait returns the first match of want at or after from, as regexp's Submatch
// indexes, and nil when the process ended or patience was over before.
func (l *logFile) wait(want *regexp.Regexp, from int) ([]int, []byte) {
	timer := time.AfterFunc(patience, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.late = true
		l.more.Broadcast()
	})
	defer timer.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late = false
	for {
		// Whole lines only, and from a line's beginning.
		whole := bytes.LastIndexByte(l.text, '\n') + 1
		if from <= whole {
			if m := want.FindSubmatchIndex(l.text[from:whole]); m != nil {
				for i := range m {
					if m[i] >= 0 {
						m[i] += from
					}
				}
				return m, l.text[:whole:whole]
			}
		}
		if l.ended || l.late {
			return nil, l.text
		}
		l.more.Wait()
	}
}

func (l *logFile) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

// backend is an app behind the proxy. It answers with what it was asked, and
// /hold only when the script says so.
type backend struct {
	name    string
	addr    string
	server  *http.Server
	served  chan struct{}
	held    chan struct{} // one value for each request to /hold that arrived
	release chan struct{} // one value lets one of them go on
}

func startBackend(name, addr string) (*backend, error) {
	network := "tcp"
	if filepath.IsAbs(addr) {
		network = "unix"
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		return nil, err
	}
	b := &backend{name: name, addr: l.Addr().String(), served: make(chan struct{}), held: make(chan struct{}, 16), release: make(chan struct{}, 16)}
	b.server = &http.Server{Handler: b}
	go func() { // waited for by stop
		defer close(b.served)
		_ = b.server.Serve(l) // ends with stop
	}()
	return b, nil
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/hold" {
		b.held <- struct{}{}
		select {
		case <-b.release:
		case <-r.Context().Done():
			return
		}
	}
	dump, err := httputil.DumpRequest(r, true)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Backend", b.name)
	fmt.Fprintf(w, "%s got:\n%s", b.name, bytes.ReplaceAll(dump, []byte("\r\n"), []byte("\n")))
}

func (b *backend) stop() {
	_ = b.server.Close()
	<-b.served
}

// newClient makes the script's client: every name is this machine, and the
// local authority of the data folder is trusted.
func (s *scene) newClient(h2 bool) {
	if s.client != nil {
		s.client.CloseIdleConnections()
	}
	t := &http.Transport{
		ForceAttemptHTTP2: h2,
		TLSClientConfig:   &tls.Config{},
		DialContext:       s.dial,
	}
	if !h2 {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetHTTP1(true)
	}
	s.client = &http.Client{
		Transport: t, Timeout: patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// trust reads the root certificates anew.
func (s *scene) trust(path string) error {
	pem, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return errors.New(path + ": no certificate in it")
	}
	t := s.client.Transport.(*http.Transport)
	t.CloseIdleConnections()
	t.TLSClientConfig.RootCAs = roots
	return nil
}

// answer is what became of a request.
type answer struct {
	status int
	text   string // status line, header and body
	err    error
}

func readAnswer(res *http.Response) *answer {
	defer res.Body.Close()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s\n", res.Proto, res.Status)
	_ = res.Header.Write(&b) // to memory
	text := bytes.ReplaceAll(b.Bytes(), []byte("\r\n"), []byte("\n"))
	body, err := io.ReadAll(res.Body)
	return &answer{status: res.StatusCode, text: string(text) + "\n" + string(body), err: err}
}
