package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// roleVar tells a copy of this binary what it is.
const roleVar = "POSTERN_BENCH_ROLE"

func main() {
	if role := os.Getenv(roleVar); role != "" {
		os.Exit(runRole(role))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := drive(ctx, os.Args[1:], os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench: "+err.Error())
		os.Exit(1)
	}
}

// runRole is the main function of the backend and load processes.
func runRole(role string) int {
	var err error
	switch role {
	case "backend":
		err = runBackend(os.Stdin, os.Stdout)
	case "load":
		err = runLoad(os.Stdin, os.Stdout)
	default:
		err = fmt.Errorf("%s is %q, want backend or load", roleVar, role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench "+role+": "+err.Error())
		return 1
	}
	return 0
}

// options are the command line.
type options struct {
	quick   bool
	rounds  int
	only    []string // loads; empty: all
	peers   []string // proxies; empty: all that are found
	out     string
	name    string
	note    string
	postern string            // its binary; "": built from the tree
	with    map[string]string // further binaries of postern by name
	profile string            // file for a CPU profile of postern; "" compares
	seconds time.Duration
}

func parseOptions(args []string, stderr io.Writer) (*options, error) {
	o := &options{with: make(map[string]string)}
	var only, peers string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.BoolVar(&o.quick, "quick", false, "a quarter of the work and 3 rounds: a few minutes")
	f.IntVar(&o.rounds, "rounds", 0, "rounds per load (default 7, with -quick 3)")
	f.StringVar(&only, "only", "", "loads to run, separated by commas; a name ending in * is a prefix (default all)")
	f.StringVar(&peers, "peers", "", "proxies to compare, separated by commas (default all that are installed)")
	f.StringVar(&o.out, "out", "", "folder for the results (default bench/results)")
	f.StringVar(&o.name, "name", "latest", "name of the result files, without extension")
	f.StringVar(&o.note, "note", "", "a sentence to put into the report, such as what else ran on the machine")
	f.StringVar(&o.postern, "postern", "", "binary of postern (default: built from this tree)")
	f.Func("with", "NAME=FILE: another binary of postern to compare, such as one from before a change; may be repeated", func(v string) error {
		name, file, ok := strings.Cut(v, "=")
		if !ok || peerByName(name) != nil {
			return fmt.Errorf("%q, want NAME=FILE with a name that no proxy has", v)
		}
		o.with[name] = file
		return nil
	})
	f.StringVar(&o.profile, "profile", "", "write a CPU profile of postern under the first load of -only to this file, and compare nothing")
	f.DurationVar(&o.seconds, "profile-time", 10*time.Second, "how long -profile takes")
	f.Usage = func() {
		fmt.Fprintln(stderr, "go run ./bench [flags]\n\nflags:")
		f.PrintDefaults()
		fmt.Fprintln(stderr, "\nloads:")
		for _, l := range loads() {
			fmt.Fprintf(stderr, "  %-22s %s\n", l.name, l.what)
		}
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("argument %q, want flags only; -h lists them", f.Arg(0))
	}
	if o.rounds == 0 {
		o.rounds = 7
		if o.quick {
			o.rounds = 3
		}
	}
	o.only, o.peers = words(only), words(peers)
	return o, nil
}

func words(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}
