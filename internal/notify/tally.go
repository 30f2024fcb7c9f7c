package notify

import (
	"cmp"
	"slices"
	"time"
)

const (
	maxFamilies = 32
	maxNetworks = 64
)

// tally counts what happens too often to be told one by one. Its size is
// bounded whatever comes: families come from a closed set of ours, of networks
// the busiest are kept (the space-saving algorithm of Metwally, Agrawal and El
// Abbadi: a newcomer takes the place and the count of the smallest). The zero
// value is empty. Not safe for concurrent use.
type tally struct {
	Bans     int            `json:"bans,omitempty"`
	Refused  int            `json:"refused,omitempty"`
	Families map[string]int `json:"families,omitempty"`
	Networks map[string]int `json:"networks,omitempty"`

	// Hours counts what was refused by the hour, from Start on.
	Start time.Time `json:"start,omitzero"`
	Hours []int     `json:"hours,omitempty"`
}

func (t *tally) empty() bool { return t.Bans == 0 && t.Refused == 0 }

func (t *tally) note(now time.Time, c *Counts) {
	t.Bans += c.Bans
	t.Refused += c.Refused
	for _, f := range c.Families {
		t.family(f.Name, f.N)
	}
	for _, n := range c.Networks {
		t.network(n.Name, n.N)
	}
	if c.Bans > 0 || c.Refused > 0 {
		t.hour(now, c.Refused)
	}
}

func (t *tally) family(name string, n int) {
	if t.Families == nil {
		t.Families = make(map[string]int)
	}
	if _, known := t.Families[name]; !known && len(t.Families) >= maxFamilies {
		name = "other"
	}
	t.Families[name] += n
}

func (t *tally) network(name string, n int) {
	if t.Networks == nil {
		t.Networks = make(map[string]int)
	}
	if _, known := t.Networks[name]; !known && len(t.Networks) >= maxNetworks {
		least, low := "", 0
		for other, count := range t.Networks {
			if least == "" || count < low || count == low && other < least {
				least, low = other, count
			}
		}
		delete(t.Networks, least)
		n += low
	}
	t.Networks[name] += n
}

// hour counts n in the hour of now; of more than a day the last 24 are kept.
func (t *tally) hour(now time.Time, n int) {
	if t.Start.IsZero() || now.Before(t.Start) {
		t.Start, t.Hours = now.Truncate(time.Hour), []int{0}
	}
	at := int(now.Sub(t.Start) / time.Hour)
	if gap := at - len(t.Hours) + 1; gap > 24 {
		t.Start, t.Hours, at = now.Truncate(time.Hour), []int{0}, 0
	}
	for len(t.Hours) <= at {
		t.Hours = append(t.Hours, 0)
	}
	t.Hours[at] += n
	if over := len(t.Hours) - 24; over > 0 {
		t.Hours = slices.Clone(t.Hours[over:])
		t.Start = t.Start.Add(time.Duration(over) * time.Hour)
	}
}

// add counts everything that u counted as well.
func (t *tally) add(u *tally) {
	t.Bans += u.Bans
	t.Refused += u.Refused
	for _, f := range top(u.Families, maxFamilies+1) {
		t.family(f.Name, f.N)
	}
	for _, n := range top(u.Networks, maxNetworks) {
		t.network(n.Name, n.N)
	}
	for i, n := range u.Hours {
		t.hour(u.Start.Add(time.Duration(i)*time.Hour), n)
	}
}

// Counts is what happened since somebody counted last.
type Counts struct {
	Bans    int // that began
	Refused int // requests and connections

	// Families is what was tried, by names of a closed set of ours, Networks
	// is from where.
	Families, Networks []Count
}

// Count is a name and how often it came.
type Count struct {
	Name string
	N    int
}

// top returns the n largest of m, the largest first.
func top(m map[string]int, n int) []Count {
	var out []Count
	for name, c := range m {
		out = append(out, Count{name, c})
	}
	slices.SortFunc(out, func(a, b Count) int {
		return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Name, b.Name))
	})
	return out[:min(n, len(out))]
}
