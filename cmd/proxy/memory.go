package main

import (
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// gcPercent trades a little time for memory: a request allocates next to
// nothing, so that collections are rare, and what connections hold counts for
// half as much again instead of twice.
const gcPercent = 50

// boundMemory keeps the process small, and below the limit of its cgroup if
// there is one. GOGC and GOMEMLIMIT, when set, win.
func boundMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	// Without a cgroup, or a limit in it, there is nothing to keep.
	_, _ = memlimit.Set(memlimit.WithLogger(slog.New(slog.DiscardHandler)))
}
