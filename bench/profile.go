package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// profile writes a CPU profile of postern under a load, which goes on until
// the profile is taken.
func (b *bench) profile(ctx context.Context, l *load) error {
	p, err := b.launch(ctx, l, b.proxies[0], 0)
	if err != nil {
		return err
	}
	defer p.end()
	j := b.jobFor(l, p)
	endless := j.Kind == "h1" || j.Kind == "h1connect"
	if endless {
		j.Units = 0
	} else {
		j.Units *= 64
	}
	work, err := startLoad(ctx, j)
	if err != nil {
		return err
	}
	defer work.end()
	if err := work.say("go"); err != nil {
		return err
	}
	if err := fetchProfile(ctx, p.setup.Admin, b.options.seconds, b.options.profile); err != nil {
		return err
	}
	if endless {
		if err := work.say("stop"); err != nil {
			return err
		}
		out, err := work.read()
		if err != nil {
			return err
		}
		fmt.Fprintf(b.log, "%s: %.0f %ss a second, %d failed %s\n", l.name, float64(out.Units)/out.Seconds, l.unit, out.Failed, out.Error)
	}
	fmt.Fprintf(b.log, "profile: %s; see it with `go tool pprof -top %s`\n", b.options.profile, b.options.profile)
	return nil
}

func fetchProfile(ctx context.Context, port int, length time.Duration, file string) error {
	seconds := max(1, int(length.Seconds()))
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds+10)*time.Second)
	defer cancel()
	url := "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) + "/debug/pprof/profile?seconds=" + strconv.Itoa(seconds)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: status %d", url, res.StatusCode)
	}
	if dir := filepath.Dir(file); dir != "." {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, res.Body); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}
