//go:build unix

package app

import "syscall"

// connectionLimit is want, or less when the process may not open as many
// files: a client's connection may need one more towards a backend, and some
// files are kept for the rest.
func connectionLimit(want int) int {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return want
	}
	const rest = 64
	if most := (int64(r.Cur) - rest) / 2; int64(want) > most {
		return int(max(most, 16))
	}
	return want
}
