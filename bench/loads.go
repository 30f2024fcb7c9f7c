package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
)

// A load is one row of the comparison.
type load struct {
	name string
	what string // for people
	unit string // what is counted
	kind measureKind

	setup func(s *setup) // what differs from the common setup
	job   job
	quick int // units of a measurement with -quick; four times as many without
}

// measureKind says what a load is about.
type measureKind int

const (
	measureCPU    measureKind = iota // CPU time per unit
	measureMemory                    // memory per open connection
	measureReload                    // failed requests
)

const (
	siteCount   = 1000
	routeCount  = 1000
	idleCount   = 10000
	banCount    = 100000
	reloadCount = 5

	// caller is where requests come from: not 127.0.0.1, which postern spares
	// as an address of its own machine. banned is where those come from who
	// are refused.
	caller = "127.0.0.2"
	banned = "127.0.0.3"
)

// loads is the list of all, in the order of the report.
func loads() []load {
	app := []string{"app." + domain}
	root := []string{"/api/devices/4711?fields=state"}
	h1 := func(conns int) job { return job{Kind: "h1", TLS: true, Hosts: app, Paths: root, Conns: conns} }
	with := func(j job, change func(*job)) job { change(&j); return j }
	h1On := func(path string, conns int) job { return with(h1(conns), func(j *job) { j.Paths = []string{path} }) }
	allCores := func(s *setup) { s.Workers = runtime.NumCPU() }
	deny := func(s *setup) { s.Deny = banned }
	return []load{
		{name: "h1-c1", what: "HTTP/1.1 over TLS, one kept connection", unit: "request", job: h1(1), quick: 5000},
		{name: "h1-c32", what: "HTTP/1.1 over TLS, 32 kept connections", unit: "request", job: h1(32), quick: 12000},
		{name: "h1-c256", what: "HTTP/1.1 over TLS, 256 kept connections", unit: "request", job: h1(256), quick: 12000},
		{name: "h1-c32-cores", what: "h1-c32 with as many workers as cores", unit: "request", setup: allCores, job: h1(32), quick: 12000},
		{name: "h1-c32-log", what: "h1-c32 with an access log", unit: "request", setup: func(s *setup) { s.Log = true }, job: h1(32), quick: 12000},
		{name: "h1-c32-noguard", what: "h1-c32 with the guard off", unit: "request", setup: func(s *setup) { s.Guard = false }, job: h1(32), quick: 12000},
		{name: "clear-c32", what: "HTTP/1.1 in clear text, 32 kept connections", unit: "request", job: with(h1(32), func(j *job) { j.TLS = false }), quick: 12000},
		{name: "connect", what: "a new TLS connection for each request", unit: "connection", job: with(h1(8), func(j *job) { j.Kind = "h1connect" }), quick: 1000},
		{name: "resume", what: "a resumed TLS connection for each request", unit: "connection", job: with(h1(8), func(j *job) { j.Kind, j.Resume = "h1connect", true }), quick: 1000},
		{name: "h2", what: "HTTP/2, 8 connections with 4 streams each", unit: "request", job: with(h1(8), func(j *job) { j.Kind, j.Streams = "h2", 4 }), quick: 12000},
		{name: "download", what: "answers of 1 MB", unit: "MB", job: h1On("/1m", 4), quick: 400},
		{name: "upload", what: "requests of 1 MB", unit: "MB", job: with(h1On("/upload", 4), func(j *job) { j.Method, j.Body = "POST", megabyte }), quick: 400},
		{name: "chunked", what: "chunked answers of 64 KB", unit: "request", job: h1On("/chunked", 8), quick: 3000},
		{name: "websocket", what: "WebSocket echoes of 64 bytes, 16 connections", unit: "message", job: with(h1(16), func(j *job) { j.Kind = "websocket" }), quick: 12000},
		{name: "idle", what: fmt.Sprintf("memory of %d idle TLS connections, one request each", idleCount), unit: "connection", kind: measureMemory, job: h1(idleCount), quick: 200},
		{name: "banned", what: "connections of a banned address, TLS", unit: "attempt", setup: deny, job: with(h1(8), func(j *job) { j.Kind, j.Source = "refused", banned }), quick: 2000},
		{name: "banned-clear", what: "connections of a banned address, clear text", unit: "attempt", setup: deny, job: with(h1(8), func(j *job) { j.Kind, j.Source, j.TLS = "refused", banned, false }), quick: 4000},
		{name: "unknown-sni", what: "connections that ask for a server name that is not here", unit: "attempt", setup: noConnectionBans, job: with(h1(8), func(j *job) { j.Kind, j.Hosts = "refused", []string{"scanner.invalid"} }), quick: 2000},
		{name: "sites-1000", what: fmt.Sprintf("h1-c32 over %d sites, each connection another", siteCount), unit: "request", setup: func(s *setup) { s.Hosts = manyHosts() },
			job: with(h1(32), func(j *job) { j.Hosts = everyOf(manyHosts(), 32) }), quick: 12000},
		{name: "routes-1000", what: fmt.Sprintf("h1-c32 over %d routes of a site, each connection another", routeCount), unit: "request", setup: func(s *setup) { s.Routes = manyRoutes() },
			job: with(h1(32), func(j *job) { j.Paths = suffixed(everyOf(manyRoutes(), 32), "/devices/4711?fields=state") }), quick: 12000},
		{name: "bans-100000", what: fmt.Sprintf("h1-c32 with %d addresses banned", banCount), unit: "request", setup: func(s *setup) { s.Bans = banCount }, job: h1(32), quick: 12000},
		{name: "reload", what: fmt.Sprintf("h1-c32 while the configuration is reloaded %d times", reloadCount), unit: "request", kind: measureReload, job: h1(32)},
	}
}

// noConnectionBans spares the caller: three unknown names would be a ban, and
// what is measured is the refusal of the name.
func noConnectionBans(s *setup) { s.Spare = caller }

func manyHosts() []string {
	hosts := make([]string, siteCount)
	for i := range hosts {
		hosts[i] = fmt.Sprintf("s%04d.%s", i, domain)
	}
	return hosts
}

func manyRoutes() []string {
	routes := make([]string, routeCount)
	for i := range routes {
		routes[i] = fmt.Sprintf("/r%04d", i)
	}
	return routes
}

// everyOf picks n of all, from the first to the last at even distances.
func everyOf(all []string, n int) []string {
	var out []string
	for i := range n {
		out = append(out, all[i*(len(all)-1)/(n-1)])
	}
	return out
}

func suffixed(all []string, suffix string) []string {
	for i := range all {
		all[i] += suffix
	}
	return all
}

// choose returns the loads of that names, or all when there are none.
func choose(names []string) ([]load, error) {
	all := loads()
	if len(names) == 0 {
		return all, nil
	}
	var out []load
	for _, name := range names {
		prefix, many := strings.CutSuffix(name, "*")
		i := len(out)
		for _, l := range all {
			if l.name == name || many && strings.HasPrefix(l.name, prefix) {
				out = append(out, l)
			}
		}
		if i == len(out) {
			return nil, fmt.Errorf("-only: no load %q; -h lists them", name)
		}
	}
	slices.SortStableFunc(out, func(a, b load) int { return indexOf(all, a.name) - indexOf(all, b.name) })
	return slices.CompactFunc(out, func(a, b load) bool { return a.name == b.name }), nil
}

func indexOf(all []load, name string) int {
	return slices.IndexFunc(all, func(l load) bool { return l.name == name })
}
