package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"

	"postern/internal/config"
	"postern/internal/tlsmgr"
)

// DemoOptions says how the demo runs.
type DemoOptions struct {
	// Once ends the demo after its table and uses free ports and, without
	// Data, a temporary data folder.
	Once bool
	// Data is the data folder. Empty: a folder of the demo's own in the
	// user's data folder.
	Data string
	// Out gets what the demo tells.
	Out     io.Writer
	Version string
}

// demoFile is what a user would write, but for the ports and the folder.
const demoFile = `listen: {http: "%s", https: "%s"}
%s
admin: {listen: "%s"}
log: {level: error, access: false}
tls: {issuer: local, on_demand: {allow: [localhost]}}
sites:
  - hosts: [localhost]
    routes:
      - {path: "/api/*", upstream: "%s"}
      - {path: /events, upstream: "%s", timeout: {response: 0s}}
      - {path: /hello, respond: {body: "hello from postern\n"}}
`

// Demo shows the main job on this machine alone: a backend, postern before
// it with a certificate of a local authority, calls and probes and what
// became of them. It returns nil when every call was answered and every probe
// refused, and, unless o.Once, when ctx ends.
func Demo(ctx context.Context, o DemoOptions) error {
	data, clean, err := demoData(o)
	if err != nil {
		return err
	}
	defer clean()
	backend, err := startSampleBackend()
	if err != nil {
		return err
	}
	defer backend.close()
	cfg, err := demoConfig(o, data, backend.addr)
	if err != nil {
		return err
	}
	a, err := New(cfg, Options{Version: o.Version, Log: os.Stderr})
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("%w\n`proxy demo --once` takes free ports", err)
		}
		return err
	}
	d := &demo{o: o, app: a, backend: backend, data: cfg.Data}
	return d.run(ctx)
}

// demoData returns the folder that o asks for, "" for the usual one.
func demoData(o DemoOptions) (dir string, clean func(), err error) {
	nothing := func() {}
	switch {
	case o.Data != "":
		dir, err = filepath.Abs(o.Data)
		return dir, nothing, err
	case o.Once:
		dir, err = os.MkdirTemp("", "postern-demo-")
		return dir, func() { _ = os.RemoveAll(dir) }, err
	}
	return "", nothing, nil
}

func demoConfig(o DemoOptions, data, backend string) (*config.Config, error) {
	http, https, admin := "127.0.0.1:8080", "127.0.0.1:8443", "127.0.0.1:9180"
	if o.Once {
		http, https, admin = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	}
	folder := ""
	if data != "" {
		folder = fmt.Sprintf("data: %q", data)
	}
	file := fmt.Sprintf(demoFile, http, https, folder, admin, backend, backend)
	cfg, err := config.Parse("demo.yaml", []byte(file), os.LookupEnv)
	if err == nil && data == "" {
		cfg.Data += "-demo" // beside the folder of the real one
	}
	return cfg, err
}

// demo is one run of Demo.
type demo struct {
	o       DemoOptions
	app     *App
	backend *sampleBackend
	data    string
}

func (d *demo) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- d.app.Run(ctx) }() // waited for below
	failed := d.show(ctx)
	if !d.o.Once && ctx.Err() == nil {
		d.invite()
		select {
		case <-ctx.Done():
		case err := <-served:
			return err
		}
		fmt.Fprintln(d.o.Out, "\nstopping")
	}
	cancel()
	if err := <-served; err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("demo: %d of the lines above are not as they should be", failed)
	}
	return nil
}

// show makes the calls and probes and prints the table. It returns how many
// went wrong.
func (d *demo) show(ctx context.Context) (failed int) {
	t, err := newDemoTarget(d)
	if err != nil {
		fmt.Fprintln(d.o.Out, err)
		return 1
	}
	defer t.close()
	w := tabwriter.NewWriter(d.o.Out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "\nGOOD CALLS\tSENT\tBECAME\t\n")
	for _, c := range demoCalls {
		became, err := c.do(ctx, t)
		failed += row(w, c.what, c.sent, became, err)
	}
	fmt.Fprintf(w, "\t\t\t\nSCANNER PROBES\tSENT\tBECAME\t\n")
	for _, p := range demoProbes {
		before := d.backend.requests.Load()
		became, err := p.do(ctx, t)
		if n := d.backend.requests.Load() - before; err == nil && n > 0 {
			err = errors.New("it reached the backend")
		}
		failed += row(w, p.what, p.sent, became, err)
	}
	_ = w.Flush() // the table is for people; a closed pipe is their choice
	fmt.Fprintf(d.o.Out, "\nThe backend was asked %d times.\n", d.backend.requests.Load())
	return failed
}

func row(w io.Writer, what, sent, became string, err error) int {
	mark, wrong := "ok", 0
	if err != nil {
		mark, became, wrong = "WRONG", strings.TrimSpace(became+" "+err.Error()), 1
	}
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", what, sent, became, mark)
	return wrong
}

// invite tells how to go on by hand.
func (d *demo) invite() {
	https := d.app.Addrs("https")[0]
	_, port, _ := strings.Cut(https, ":")
	fmt.Fprintf(d.o.Out, `
Serving https://localhost:%s and http://localhost:%s until Ctrl-C. Try:

  curl --cacert %s https://localhost:%s/api/hello
  curl -N --cacert %s https://localhost:%s/events
  curl -i http://localhost:%s/api/hello

Admin page: http://%s (metrics at /metrics, health at /health)
`, port, portOf(d.app.Addrs("http")[0]), d.root(), port, d.root(), port, portOf(d.app.Addrs("http")[0]), d.app.AdminAddr())
}

// root is the PEM file a caller needs to verify the demo's certificate.
func (d *demo) root() string { return tlsmgr.LocalRootPath(d.data) }
