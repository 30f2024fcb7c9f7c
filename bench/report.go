package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// report is everything one run of the comparison found.
type report struct {
	Date    time.Time         `json:"date"`
	Took    string            `json:"took"`
	Commit  string            `json:"commit"`
	Machine string            `json:"machine"`
	Loaded  string            `json:"load_average_before"` // of the machine, over 1 minute
	Go      string            `json:"go"`
	Quick   bool              `json:"quick"`
	Rounds  int               `json:"rounds"`
	Note    string            `json:"note,omitzero"`
	Proxies []string          `json:"proxies"`
	About   map[string]string `json:"versions"`
	Missing map[string]string `json:"missing"`
	Rows    []*row            `json:"loads"`
}

func (b *bench) newReport(ctx context.Context, missing map[string]string) *report {
	r := &report{
		Date: time.Now(), Commit: commit(ctx, b.root), Machine: machine(b.cpus), Loaded: loadAverage(),
		Go: runtime.Version(), Quick: b.options.quick, Rounds: b.options.rounds, Note: b.options.note,
		About: make(map[string]string), Missing: missing,
	}
	for _, c := range b.proxies {
		r.Proxies = append(r.Proxies, c.name)
		r.About[c.name] = c.about
	}
	if b.options.postern != "" {
		r.About["postern"] += ", a binary given on the command line"
	}
	return r
}

// commit names the tree that is measured.
func commit(ctx context.Context, root string) string {
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Dir = root
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	id, err := git("rev-parse", "--short=10", "HEAD")
	if err != nil {
		return "unknown"
	}
	if changed, err := git("status", "--porcelain", "--untracked-files=no"); err != nil || changed != "" {
		id += " with changes"
	}
	return id
}

// machine says what kind of machine this is, without its name.
func machine(cpus int) string {
	model := "unknown CPU"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			name, value, _ := strings.Cut(line, ":")
			if name = strings.TrimSpace(name); name == "model name" || name == "Model" {
				model = strings.TrimSpace(value)
			}
		}
		if strings.Contains(string(info), " hypervisor") {
			model += ", virtual machine"
		}
	}
	return fmt.Sprintf("%s, %d cores, %s/%s, %s", model, cpus, runtime.GOOS, runtime.GOARCH, kernel())
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

// write makes the three files.
func (r *report) write(dir, name string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	for ext, content := range map[string][]byte{".json": append(raw, '\n'), ".md": r.markdown(name), ".svg": r.plot()} {
		if err := os.WriteFile(filepath.Join(dir, name+ext), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// markdown is the report for people.
func (r *report) markdown(name string) []byte {
	var w bytes.Buffer
	depth := fmt.Sprintf("%d rounds", r.Rounds)
	if r.Quick {
		depth += ", quick"
	}
	fmt.Fprintf(&w, "# Postern and its peers\n\nMeasured %s (%s, took %s) at commit %s.\n\n",
		r.Date.UTC().Format("2006-01-02 15:04 MST"), depth, r.Took, r.Commit)
	fmt.Fprintf(&w, "- Machine: %s; load average before: %s; %s.\n", r.Machine, r.Loaded, r.Go)
	for _, p := range r.Proxies {
		fmt.Fprintf(&w, "- %s: %s\n", p, r.About[p])
	}
	for _, p := range sortedKeys(r.Missing) {
		fmt.Fprintf(&w, "- %s: left out, %s\n", p, r.Missing[p])
	}
	if r.Note != "" {
		fmt.Fprintf(&w, "- Note: %s\n", r.Note)
	}
	fmt.Fprintf(&w, "\nEach figure is the median of its rounds; × is the median of the ratios to %s in\nthe same round, with the least and the greatest of them in brackets for postern.\n"+
		"[README.md](../README.md) says what is measured and what it is worth.\n\n", base)
	if len(r.withBase()) > 0 {
		fmt.Fprintf(&w, "![Ratios of CPU time to %s](%s.svg)\n\n", base, name)
	}
	r.tableCPU(&w)
	r.tableFlat(&w)
	r.tableMemory(&w)
	r.tableReload(&w)
	r.tableSpeed(&w)
	r.remarks(&w)
	return w.Bytes()
}

// figures of a sample.
func cpuFigure(s sample) float64  { return s.CPU }
func connFigure(s sample) float64 { return s.PerConn }

// tableCPU is the main table.
func (r *report) tableCPU(w *bytes.Buffer) {
	r.head(w, "CPU time per unit, µs", "one of")
	for _, row := range r.Rows {
		if row.Kind == measureCPU {
			r.line(w, row, row.Unit, cpuFigure, 1)
		}
	}
	w.WriteByte('\n')
	r.head(w, "Of it in user mode, % (coarse)", "one of")
	for _, row := range r.Rows {
		if row.Kind != measureCPU {
			continue
		}
		r.cells(w, row, row.Unit, func(p string) string {
			user := median(row.of(p, func(s sample) float64 { return 100 * s.User / (s.User + s.System) }))
			return number(user)
		})
	}
	w.WriteByte('\n')
}

// tableFlat shows what size costs: the same requests among many sites, routes
// and bans, beside those of h1-c32 with the same proxy. The rounds of two loads
// do not take turns: a disturbance of one is in the figure.
func (r *report) tableFlat(w *bytes.Buffer) {
	plain := slices.IndexFunc(r.Rows, func(row *row) bool { return row.Load == "h1-c32" })
	if plain < 0 {
		return
	}
	begun := false
	for _, row := range r.Rows {
		if !slices.Contains([]string{"sites-1000", "routes-1000", "bans-100000"}, row.Load) {
			continue
		}
		if !begun {
			r.head(w, "CPU time per request, of that of h1-c32", "figure")
			begun = true
		}
		r.cells(w, row, "of h1-c32", func(p string) string {
			return ratio(median(row.of(p, cpuFigure)) / median(r.Rows[plain].of(p, cpuFigure)))
		})
	}
	if begun {
		w.WriteByte('\n')
	}
}

func (r *report) tableMemory(w *bytes.Buffer) {
	if !slices.ContainsFunc(r.Rows, func(row *row) bool { return row.Kind == measureMemory }) {
		return
	}
	r.head(w, "Memory (PSS)", "figure")
	for _, row := range r.Rows {
		if row.Kind == measureMemory {
			r.line(w, row, "KB per connection", connFigure, 1024)
			r.line(w, row, "MB in all", func(s sample) float64 { return float64(s.PSS) }, megabyte)
		}
	}
	for _, row := range r.Rows {
		if row.Load == "h1-c256" || row.Load == "sites-1000" {
			r.line(w, row, "MB afterwards", func(s sample) float64 { return float64(s.PSS) }, megabyte)
		}
	}
	w.WriteByte('\n')
}

func (r *report) tableReload(w *bytes.Buffer) {
	for _, row := range r.Rows {
		if row.Kind != measureReload {
			continue
		}
		r.head(w, fmt.Sprintf("%d reloads under load, per round", reloadCount), "figure")
		total := func(figure func(sample) int) func(string) string {
			return func(p string) string {
				n := 0
				for _, s := range row.Samples[p] {
					n += figure(s)
				}
				return number(float64(n) / float64(max(1, len(row.Samples[p]))))
			}
		}
		r.cells(w, row, "requests", total(func(s sample) int { return s.Units }))
		r.cells(w, row, "failed", total(func(s sample) int { return s.Failed }))
		r.cells(w, row, "sent again", total(func(s sample) int { return s.Retried }))
		r.line(w, row, "CPU per request, µs", cpuFigure, 1)
		w.WriteByte('\n')
	}
}

func (r *report) tableSpeed(w *bytes.Buffer) {
	r.head(w, "Units per second / median latency / 99th percentile, µs", "one of")
	for _, row := range r.Rows {
		if row.Kind == measureMemory {
			continue
		}
		r.cells(w, row, row.Unit, func(p string) string {
			return number(median(row.of(p, func(s sample) float64 { return s.Rate }))) + " / " +
				number(median(row.of(p, func(s sample) float64 { return s.P50 }))) + " / " +
				number(median(row.of(p, func(s sample) float64 { return s.P99 })))
		})
	}
	w.WriteByte('\n')
}

// remarks lists what did not go as it should.
func (r *report) remarks(w *bytes.Buffer) {
	var list []string
	for _, row := range r.Rows {
		for _, p := range r.Proxies {
			failed := 0
			why := ""
			for _, s := range row.Samples[p] {
				failed += s.Failed
				if why == "" {
					why = s.Error
				}
			}
			if failed > 0 {
				list = append(list, fmt.Sprintf("%s, %s: %d units failed; the first: %s", row.Load, p, failed, why))
			}
			if m := row.Missing[p]; m != "" {
				list = append(list, fmt.Sprintf("%s, %s: %s", row.Load, p, firstLine(m)))
			}
		}
	}
	if len(list) > 0 {
		fmt.Fprintf(w, "## Remarks\n\n- %s\n\n", strings.Join(list, "\n- "))
	}
	fmt.Fprint(w, "## Loads\n\n")
	for _, row := range r.Rows {
		fmt.Fprintf(w, "- `%s`: %s\n", row.Load, row.What)
	}
}

func (r *report) head(w *bytes.Buffer, title, unit string) {
	fmt.Fprintf(w, "## %s\n\n| load | %s |", title, unit)
	for _, p := range r.Proxies {
		fmt.Fprintf(w, " %s |", p)
	}
	fmt.Fprintf(w, "\n| --- | --- |%s\n", strings.Repeat(" --- |", len(r.Proxies)))
}

func (r *report) cells(w *bytes.Buffer, row *row, unit string, cell func(proxy string) string) {
	fmt.Fprintf(w, "| %s | %s |", row.Load, unit)
	for _, p := range r.Proxies {
		if len(row.Samples[p]) == 0 {
			fmt.Fprint(w, " – |")
			continue
		}
		fmt.Fprintf(w, " %s |", cell(p))
	}
	w.WriteByte('\n')
}

// line is a row of figures with ratios to the base.
func (r *report) line(w *bytes.Buffer, row *row, unit string, figure func(sample) float64, scale float64) {
	r.cells(w, row, unit, func(p string) string {
		text := number(median(row.of(p, figure)) / scale)
		all := ratios(row.of(p, figure), row.of(base, figure))
		if p == base || len(all) == 0 {
			return text
		}
		text += " ×" + ratio(median(all))
		if least, most := spread(all); p == "postern" && len(all) > 1 {
			text = "**" + text + "** [" + ratio(least) + "–" + ratio(most) + "]"
		}
		return text
	})
}

// withBase returns the rows of CPU and memory in which the base took part.
func (r *report) withBase() []*row {
	var out []*row
	for _, row := range r.Rows {
		if len(row.Samples[base]) > 0 && row.Kind != measureReload {
			out = append(out, row)
		}
	}
	return out
}

// number prints a figure with three digits.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "–"
	case a == math.Trunc(a) || a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func ratio(v float64) string {
	if v >= 10 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func sortedKeys(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
