package main

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cpuClock reads the CPU clock of another process in nanoseconds, threads that
// have ended included. /proc/PID/stat has the same value in ticks of 10 ms,
// too coarse for a measurement of less than a second. The clock's number is
// made as clock_getcpuclockid(3) makes it.
func cpuClock(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil {
		return 0, err
	}
	return time.Duration(ts.Nano()), nil
}

// ownGroup makes a child the head of a process group, which can be ended as a
// whole, and ends it when we are ended.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// endGroup ends the process group that pid heads.
func endGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) }

// raiseFiles raises the limit on open files, for us and for who we start, as
// far as it goes up to want, and returns it.
func raiseFiles(want uint64) uint64 {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 1024
	}
	if r.Cur >= want {
		return r.Cur
	}
	higher := syscall.Rlimit{Cur: want, Max: max(want, r.Max)} // above Max takes root
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &higher) == nil {
		return want
	}
	higher = syscall.Rlimit{Cur: r.Max, Max: r.Max}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &higher) == nil {
		return r.Max
	}
	return r.Cur
}

// kernel names the kernel without what names the machine, such as "Linux 6.1".
func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "Linux"
	}
	release := unix.ByteSliceToString(u.Release[:])
	dots := 0
	for i, c := range release {
		if c == '.' {
			dots++
		}
		if dots == 2 || (c != '.' && (c < '0' || c > '9')) {
			return "Linux " + release[:i]
		}
	}
	return "Linux " + release
}

const supported = true
