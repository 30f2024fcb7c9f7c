package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// child is a process we started, with those it started. end ends them all.
type child struct {
	cmd     *exec.Cmd
	logs    string        // file with what it printed
	ended   chan struct{} // closed when it has
	waiting sync.WaitGroup
}

// start runs a command in dir; what it prints goes to dir/NAME.log.
func start(dir, name string, env []string, command ...string) (*child, error) {
	logs := filepath.Join(dir, name+".log")
	f, err := os.OpenFile(logs, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the child has its own
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, f, f
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = ownGroup()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, logs: logs, ended: make(chan struct{})}
	c.waiting.Go(func() {
		_ = cmd.Wait()
		close(c.ended)
	})
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// end asks the child to stop, so that it stops and collects its workers, and
// makes it when it takes longer than a second.
func (c *child) end() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.ended:
	case <-time.After(time.Second):
	}
	endGroup(c.pid())
	c.waiting.Wait()
}

// lastWords returns the end of what the child printed.
func (c *child) lastWords() string {
	b, err := os.ReadFile(c.logs)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b[max(0, len(b)-2000):]))
}

// role starts this binary as backend or load.
func role(ctx context.Context, name string) (*exec.Cmd, io.WriteCloser, *bufio.Scanner, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), roleVar+"="+name, "GOGC=400") // whose garbage collector is not measured
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = ownGroup()
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, nil, err
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, megabyte)
	return cmd, in, lines, nil
}

// startBackend starts the backend and returns its address; stop ends it.
func startBackend(ctx context.Context) (addr string, stop func(), err error) {
	cmd, in, lines, err := role(ctx, "backend")
	if err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = in.Close()
		_ = cmd.Wait()
	}
	if !lines.Scan() {
		stop()
		return "", nil, errors.New("backend ended before it had an address")
	}
	return lines.Text(), stop, nil
}

// loadProcess is a load that is ready, or done.
type loadProcess struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	lines  *bufio.Scanner
	cancel context.CancelFunc
}

// jobTimeout ends a load process that does not end by itself.
const jobTimeout = 3 * time.Minute

// startLoad starts a load process and waits until it has warmed up.
func startLoad(ctx context.Context, j *job) (*loadProcess, error) {
	ctx, cancel := context.WithTimeout(ctx, jobTimeout)
	cmd, in, lines, err := role(ctx, "load")
	if err != nil {
		cancel()
		return nil, err
	}
	p := &loadProcess{cmd, in, lines, cancel}
	if err := json.NewEncoder(in).Encode(j); err != nil {
		p.end()
		return nil, err
	}
	out, err := p.read()
	if err == nil && !out.Ready {
		err = errors.New(out.Error)
	}
	if err != nil {
		p.end()
		return nil, fmt.Errorf("load: %w", err)
	}
	return p, nil
}

func (p *loadProcess) read() (*outcome, error) {
	if !p.lines.Scan() {
		return nil, errors.New("load process ended without a result")
	}
	var out outcome
	if err := json.Unmarshal(p.lines.Bytes(), &out); err != nil {
		return nil, fmt.Errorf("load process printed %.80q: %w", p.lines.Bytes(), err)
	}
	return &out, nil
}

// say sends a line: go or stop.
func (p *loadProcess) say(word string) error {
	_, err := fmt.Fprintln(p.in, word)
	return err
}

func (p *loadProcess) end() {
	_ = p.in.Close()
	p.cancel()
	_ = p.cmd.Wait()
}

// freePort returns a TCP port that nobody used on loopback a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
