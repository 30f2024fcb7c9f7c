//go:build !linux

package caller

import "time"

// systemClock believes the clock: these systems run on machines with a battery
// for it.
func systemClock() (synced bool, up time.Duration) { return true, clockPatient }
