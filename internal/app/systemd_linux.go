package app

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// reloadingState is what sd_notify(3) wants at the beginning of a reload.
func reloadingState() string {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return "RELOADING=1"
	}
	return "RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(t.Nano()/1000, 10)
}
