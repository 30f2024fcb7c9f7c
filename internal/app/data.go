package app

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// ensureData makes the data folder, for us alone, and finds out now whether
// it can be written: a certificate that cannot be stored would be a
// certificate bought again and again.
func ensureData(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("data %s: the folder can not be made; make it and give it to this user (uid %d), or set data: to another: %w", dir, os.Getuid(), err)
	}
	probe := filepath.Join(dir, ".writable")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		return fmt.Errorf("data %s: the folder is not writable for this user (uid %d); change its owner, or set data: to another: %w", dir, os.Getuid(), err)
	}
	return os.Remove(probe)
}

// watchdogInterval is how often systemd wants a sign of life
// (sd_watchdog_enabled(3)); 0: never.
func watchdogInterval() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	us, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || us <= 0 {
		return 0
	}
	return time.Duration(us) * time.Microsecond
}
