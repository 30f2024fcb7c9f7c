package caller

import (
	"time"

	"golang.org/x/sys/unix"
)

// systemClock asks the kernel whether a time service has set the clock
// (adjtimex(2)), and how long the machine has been up.
func systemClock() (synced bool, up time.Duration) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	synced = err == nil && state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return synced, clockPatient
	}
	return synced, time.Duration(info.Uptime) * time.Second
}
