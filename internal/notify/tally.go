package notify

import (
	"cmp"
	"net/netip"
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

// networkOf is the neighbourhood that an address counts for.
func networkOf(a netip.Addr) string {
	a = a.Unmap()
	bits := 24
	if a.Is6() {
		bits = 48
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return ""
	}
	return p.String()
}

func (t *tally) ban(now time.Time, family, network string) {
	t.Bans++
	t.note(family, network, 1)
	t.hour(now, 0)
}

func (t *tally) refuse(now time.Time, family, network string, n int) {
	t.Refused += n
	t.note(family, network, n)
	t.hour(now, n)
}

func (t *tally) note(family, network string, n int) {
	if t.Families == nil {
		t.Families, t.Networks = make(map[string]int), make(map[string]int)
	}
	if _, known := t.Families[family]; !known && len(t.Families) >= maxFamilies {
		family = "other"
	}
	t.Families[family] += n
	if network == "" {
		return
	}
	if _, known := t.Networks[network]; !known && len(t.Networks) >= maxNetworks {
		least, low := "", 0
		for name, count := range t.Networks {
			if least == "" || count < low || count == low && name < least {
				least, low = name, count
			}
		}
		delete(t.Networks, least)
		t.Networks[network] = low
	}
	t.Networks[network] += n
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
	for _, f := range sortedKeys(u.Families) {
		t.note(f, "", u.Families[f])
	}
	for _, n := range sortedKeys(u.Networks) {
		t.note("", n, u.Networks[n])
		delete(t.Families, "")
	}
	for i, n := range u.Hours {
		t.hour(u.Start.Add(time.Duration(i)*time.Hour), n)
	}
}

func sortedKeys(m map[string]int) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// count is one line of a list of the busiest.
type count struct {
	name string
	n    int
}

// top returns the n largest of m, the largest first.
func top(m map[string]int, n int) []count {
	var out []count
	for name, c := range m {
		out = append(out, count{name, c})
	}
	slices.SortFunc(out, func(a, b count) int {
		return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(a.name, b.name))
	})
	return out[:min(n, len(out))]
}
