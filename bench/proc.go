package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// userHz is the unit of times in /proc/PID/stat, 1/100 s on every Linux there
// is (proc(5), sysconf(_SC_CLK_TCK)).
const userHz = 100

// procStat is what is used of /proc/PID/stat.
type procStat struct {
	parent int
	// CPU time of the process in user and kernel mode, and that of its
	// children which have ended and were waited for.
	user, system, childUser, childSystem time.Duration
}

// parseStat reads a line of /proc/PID/stat. The command in it is in
// parentheses and may hold anything, parentheses too.
func parseStat(line []byte) (procStat, error) {
	end := bytes.LastIndexByte(line, ')')
	if end < 0 {
		return procStat{}, fmt.Errorf("stat %.60q, want a command in parentheses", line)
	}
	fields := strings.Fields(string(line[end+1:])) // from field 3 on
	if len(fields) < 15 {
		return procStat{}, fmt.Errorf("stat has %d fields after the command, want 15 or more", len(fields))
	}
	var n [5]int64
	for i, at := range []int{4, 14, 15, 16, 17} { // as numbered in proc(5)
		v, err := strconv.ParseInt(fields[at-3], 10, 64)
		if err != nil {
			return procStat{}, fmt.Errorf("stat field %d: %w", at, err)
		}
		n[i] = v
	}
	ticks := func(v int64) time.Duration { return time.Duration(v) * time.Second / userHz }
	return procStat{int(n[0]), ticks(n[1]), ticks(n[2]), ticks(n[3]), ticks(n[4])}, nil
}

// parsePSS returns the proportional set size in bytes, as smaps_rollup has it.
func parsePSS(text []byte) (int64, error) {
	for line := range bytes.Lines(text) {
		rest, ok := bytes.CutPrefix(line, []byte("Pss:"))
		if !ok {
			continue
		}
		f := strings.Fields(string(rest))
		if len(f) != 2 || f[1] != "kB" {
			return 0, fmt.Errorf("smaps_rollup: Pss is %q, want a number of kB", rest)
		}
		kb, err := strconv.ParseInt(f[0], 10, 64)
		return kb << 10, err
	}
	return 0, fmt.Errorf("smaps_rollup has no line Pss")
}

// tree returns root and its descendants, with their stat.
func tree(root int) (map[int]procStat, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	all := make(map[int]procStat)
	for _, file := range files {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		line, err := os.ReadFile(file)
		if err != nil {
			continue // it ended
		}
		if all[pid], err = parseStat(line); err != nil {
			return nil, err
		}
	}
	out := make(map[int]procStat)
	for pid := range all {
		for up, steps := pid, 0; up > 0 && steps < 64; up, steps = all[up].parent, steps+1 {
			if up == root {
				out[pid] = all[pid]
				break
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("process %d has ended", root)
	}
	return out, nil
}

// cpuTime is the CPU time of a process and all that it started.
type cpuTime struct {
	total        time.Duration // exact for what runs, in ticks for what has ended
	user, system time.Duration // in ticks of 10 ms
}

func (c cpuTime) since(before cpuTime) cpuTime {
	return cpuTime{c.total - before.total, c.user - before.user, c.system - before.system}
}

// cpuOf reads the CPU time of root and its descendants.
func cpuOf(root int) (cpuTime, error) {
	procs, err := tree(root)
	if err != nil {
		return cpuTime{}, err
	}
	var sum cpuTime
	for pid, p := range procs {
		sum.user += p.user + p.childUser
		sum.system += p.system + p.childSystem
		sum.total += p.childUser + p.childSystem
		if exact, err := cpuClock(pid); err == nil {
			sum.total += exact
		} else {
			sum.total += p.user + p.system
		}
	}
	return sum, nil
}

// pssOf returns the proportional set size of root and its descendants, bytes.
func pssOf(root int) (int64, error) {
	procs, err := tree(root)
	if err != nil {
		return 0, err
	}
	var sum int64
	for pid := range procs {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, err
		}
		n, err := parsePSS(text)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}
