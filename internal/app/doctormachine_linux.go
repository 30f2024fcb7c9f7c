package app

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// defaultGateway reads the kernel's IPv4 table (proc(5), /proc/net/route). No
// default route is no error.
func defaultGateway() (netip.Addr, string, error) {
	raw, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return netip.Addr{}, "", err
	}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
			continue
		}
		b, err := hex.DecodeString(f[2])
		if err != nil || len(b) != 4 {
			return netip.Addr{}, "", fmt.Errorf("/proc/net/route: gateway %q, want 8 hexadecimal digits", f[2])
		}
		var a [4]byte
		binary.NativeEndian.PutUint32(a[:], binary.BigEndian.Uint32(b))
		return netip.AddrFrom4(a), f[0], nil
	}
	return netip.Addr{}, "", nil
}

// clockSynced asks the kernel (adjtimex(2)).
func clockSynced() (bool, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return false, errUnknown // not allowed in some containers
	}
	return state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0, nil
}

func diskSpace(dir string) (free, all uint64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, err
	}
	return s.Bavail * uint64(s.Bsize), s.Blocks * uint64(s.Bsize), nil
}

// memoryLeft reads MemAvailable (proc(5), /proc/meminfo).
func memoryLeft() (free, all uint64, err error) {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0, err
	}
	for s := bufio.NewScanner(bytes.NewReader(raw)); s.Scan(); {
		name, rest, _ := strings.Cut(s.Text(), ":")
		n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "MemTotal":
			all = n << 10
		case "MemAvailable":
			free = n << 10
		}
	}
	if all == 0 {
		return 0, 0, errUnknown
	}
	return free, all, nil
}

// openFiles counts this process's descriptors.
func openFiles() (open, limit int, err error) {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0, 0, err
	}
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 0, 0, err
	}
	return len(list), int(min(r.Cur, 1<<30)), nil
}
