package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"postern/internal/admin"
	"postern/internal/guard"
)

// Ban is one ban as the private API and `proxy ban list --json` tell it.
// Scripts read this: names and words stay.
type Ban struct {
	Network string         `json:"network"` // an address (/32), or a /64, /24 or /48
	Reason  string         `json:"reason"`  // what weighed most, network, or manual
	Since   time.Time      `json:"since"`
	Until   time.Time      `json:"until"`
	Before  int            `json:"before"`           // bans that are not forgotten
	Trial   bool           `json:"trial,omitempty"`  // nothing is refused: guard.mode is detect
	Kernel  bool           `json:"kernel,omitempty"` // the kernel may drop it, if it is asked to
	Counted map[string]int `json:"counted,omitempty"`
	Note    string         `json:"note,omitempty"`
}

func newBan(b *guard.Ban) Ban {
	out := Ban{
		Network: b.Prefix.String(), Reason: b.Reason, Since: b.Since, Until: b.Until,
		Before: b.Past, Trial: b.Trial, Kernel: b.Drop, Note: b.Note,
	}
	for _, s := range b.Signals {
		if out.Counted == nil {
			out.Counted = make(map[string]int)
		}
		out.Counted[s.Signal.String()] = s.Count
	}
	return out
}

func newBans(list []guard.Ban) []Ban {
	out := make([]Ban, 0, len(list)) // [] in JSON, not null
	for i := range list {
		out = append(out, newBan(&list[i]))
	}
	return out
}

// BanCase is why an address is banned, or how far it is from it.
type BanCase struct {
	Network   string  `json:"network"`
	Spared    string  `json:"spared,omitempty"`  // why it is never banned
	AWS       bool    `json:"aws,omitempty"`     // its bans are short and by the request
	Trusted   bool    `json:"trusted,omitempty"` // a caller proved who it is from there lately
	BansOff   bool    `json:"bans_off,omitempty"`
	Bans      []Ban   `json:"bans"`
	Score     float64 `json:"score"`
	Threshold float64 `json:"threshold"`

	Neighbours       string  `json:"neighbours"` // its /24 or /48
	NeighboursBanned float64 `json:"neighbours_banned"`
	NeighboursLimit  float64 `json:"neighbours_limit"` // 0: no neighbourhood is banned

	Counted  map[string]int `json:"counted,omitempty"` // what is not forgiven
	Requests []BanRequest   `json:"requests"`          // the last that counted, the oldest first
}

// BanRequest is one request or connection that counted.
type BanRequest struct {
	At     time.Time `json:"at"`
	Signal string    `json:"signal"`
	Rule   string    `json:"rule,omitempty"`
	Points float64   `json:"points"`
	Score  float64   `json:"score"` // after it
	Method string    `json:"method,omitempty"`
	Host   string    `json:"host,omitempty"`
	Path   string    `json:"path,omitempty"` // a stranger's, cut; without the query
}

func newBanCase(c *guard.Case, off bool) BanCase {
	out := BanCase{
		Network: c.Prefix.String(), Spared: c.Spared, AWS: c.Shared, Trusted: c.Trusted, BansOff: off, Bans: newBans(c.Bans),
		Score: c.Score, Threshold: c.Threshold,
		Neighbours: c.Network.String(), NeighboursBanned: c.NetworkBans, NeighboursLimit: c.NetworkThreshold,
		Requests: make([]BanRequest, 0, len(c.Exhibits)),
	}
	for _, s := range c.Signals {
		if out.Counted == nil {
			out.Counted = make(map[string]int)
		}
		out.Counted[s.Signal.String()] = s.Count
	}
	for _, e := range c.Exhibits {
		out.Requests = append(out.Requests, BanRequest{
			At: e.At, Signal: e.Signal.String(), Rule: e.Rule, Points: e.Weight, Score: e.Score,
			Method: e.Method, Host: e.Host, Path: e.Path,
		})
	}
	return out
}

// banRoutes are the requests of the private API about bans.
func (a *App) banRoutes() []admin.Route {
	return []admin.Route{
		{Method: http.MethodGet, Path: "/bans", Do: func(*http.Request) (any, error) { return newBans(a.guard.Bans(time.Now())), nil }},
		{Method: http.MethodGet, Path: "/bans/why", Do: a.whyBanned},
		{Method: http.MethodPost, Path: "/bans/add", Do: a.addBan},
		{Method: http.MethodPost, Path: "/bans/del", Do: a.delBan},
	}
}

// whyBanned answers GET /bans/why?address=ADDRESS.
func (a *App) whyBanned(r *http.Request) (any, error) {
	net, err := banNetwork(r.URL.Query().Get("address"))
	if err != nil {
		return nil, err
	}
	c := a.guard.Why(net.Addr(), time.Now())
	_, off := a.guard.BansOff()
	return newBanCase(&c, off), nil
}

// addBan answers POST /bans/add?address=ADDRESS&for=DURATION&note=TEXT.
func (a *App) addBan(r *http.Request) (any, error) {
	q := r.URL.Query()
	net, err := banNetwork(q.Get("address"))
	if err != nil {
		return nil, err
	}
	ttl, err := time.ParseDuration(cmp.Or(q.Get("for"), "24h"))
	if err != nil {
		return nil, &admin.Problem{Status: http.StatusBadRequest, Detail: fmt.Sprintf("for: %q, want a time such as 24h", q.Get("for"))}
	}
	now := time.Now()
	if err := a.guard.BanPrefix(net, ttl, cut(printable(q.Get("note")), 200), now); err != nil {
		status := http.StatusBadRequest
		if errors.Is(err, guard.ErrSpared) {
			status = http.StatusConflict
		}
		return nil, &admin.Problem{Status: status, Detail: err.Error()}
	}
	a.log.Info("banned by hand", "address", net.String(), "for", ttl.String())
	for _, b := range a.guard.Bans(now) {
		if b.Prefix == net {
			return newBan(&b), nil
		}
	}
	return Ban{Network: net.String(), Reason: "manual"}, nil
}

// delBan answers POST /bans/del?address=ADDRESS. A plain address also loses
// the ban of its neighbourhood, so that it is let in.
func (a *App) delBan(r *http.Request) (any, error) {
	text := r.URL.Query().Get("address")
	net, err := banNetwork(text)
	if err != nil {
		return nil, err
	}
	now, ended := time.Now(), false
	if strings.Contains(text, "/") {
		ended = a.guard.UnbanPrefix(net, now)
	} else {
		ended = a.guard.Unban(net.Addr(), now)
	}
	if !ended {
		return nil, &admin.Problem{Status: http.StatusNotFound, Detail: net.String() + " is not banned; `proxy ban list` shows who is"}
	}
	return Ban{Network: net.String()}, nil
}

// banNetwork reads an address, or a network that can be banned.
func banNetwork(text string) (netip.Prefix, error) {
	bad := &admin.Problem{
		Status: http.StatusBadRequest,
		Detail: fmt.Sprintf("address: %q, want an address such as 192.0.2.7 or 2001:db8::1, or a network: an IPv4 /24, an IPv6 /64 or /48", cut(text, 60)),
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		addr = addr.Unmap().WithZone("")
		bits := 32
		if addr.Is6() {
			bits = 64
		}
		return netip.PrefixFrom(addr, bits).Masked(), nil
	}
	net, err := netip.ParsePrefix(text)
	if err != nil {
		return net, bad
	}
	if net = net.Masked(); net.Addr().Is6() && net.Bits() == 128 {
		net = netip.PrefixFrom(net.Addr(), 64).Masked()
	}
	switch {
	case net.Addr().Is4() && (net.Bits() == 32 || net.Bits() == 24), net.Addr().Is6() && (net.Bits() == 64 || net.Bits() == 48):
		return net, nil
	}
	return net, bad
}

// Bans asks a running postern who is banned.
func Bans(ctx context.Context, addr, token string) ([]Ban, error) {
	var out []Ban
	err := admin.Call(ctx, addr, token, http.MethodGet, "/bans", &out)
	return out, err
}

// WhyBanned asks a running postern about one address.
func WhyBanned(ctx context.Context, addr, token, address string) (BanCase, error) {
	var out BanCase
	err := admin.Call(ctx, addr, token, http.MethodGet, "/bans/why?"+url.Values{"address": {address}}.Encode(), &out)
	return out, inWords(err)
}

// AddBan has a running postern ban an address or network.
func AddBan(ctx context.Context, addr, token, address string, ttl time.Duration, note string) (Ban, error) {
	var out Ban
	q := url.Values{"address": {address}, "for": {ttl.String()}, "note": {note}}
	err := admin.Call(ctx, addr, token, http.MethodPost, "/bans/add?"+q.Encode(), &out)
	return out, inWords(err)
}

// DelBan has a running postern end a ban.
func DelBan(ctx context.Context, addr, token, address string) (Ban, error) {
	var out Ban
	err := admin.Call(ctx, addr, token, http.MethodPost, "/bans/del?"+url.Values{"address": {address}}.Encode(), &out)
	return out, inWords(err)
}

// inWords leaves of an error what the running postern says.
func inWords(err error) error {
	if p, ok := errors.AsType[*admin.Problem](err); ok {
		return p
	}
	return err
}

// WriteBans writes a table for people.
func WriteBans(w io.Writer, list []Ban, now time.Time) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "nobody is banned")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NETWORK\tREASON\tSINCE\tUNTIL\tBEFORE\tREMARK")
	for i := range list {
		b := &list[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\n", b.Network, b.Reason, moment(b.Since, now), moment(b.Until, now), b.Before, banRemark(b))
	}
	return t.Flush()
}

func banRemark(b *Ban) string {
	var parts []string
	if b.Trial {
		parts = append(parts, "on trial: nothing is refused")
	}
	if b.Note != "" {
		parts = append(parts, strconv.Quote(b.Note))
	}
	return strings.Join(parts, ", ")
}

// WriteBanCase writes for people why an address is banned, or is not. What a
// stranger sent is quoted.
func WriteBanCase(w io.Writer, c *BanCase, now time.Time) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", c.Network, caseVerdict(c, now))
	if c.Spared != "" {
		fmt.Fprintf(&b, "never banned: %s\n", c.Spared)
	}
	if c.AWS {
		b.WriteString("an address of AWS: requests are refused one by one, known callers are let in\n")
	}
	if c.Trusted {
		b.WriteString("a caller proved who it is from there lately, so nothing counts\n")
	}
	if c.BansOff {
		b.WriteString("bans are switched off: all clients come with one address\n")
	}
	fmt.Fprintf(&b, "score %.4g of %.4g", c.Score, c.Threshold)
	if c.NeighboursLimit > 0 {
		fmt.Fprintf(&b, "; %s: %.1f of %.4g neighbours banned", c.Neighbours, c.NeighboursBanned, c.NeighboursLimit)
	}
	b.WriteString("\n")
	if len(c.Requests) == 0 {
		b.WriteString("no request that counted is remembered\n")
		_, err := io.WriteString(w, b.String())
		return err
	}
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "WHEN\tWHAT\tRULE\tPOINTS\tSCORE\tREQUEST")
	for _, r := range c.Requests {
		request := "–"
		if r.Method != "" || r.Path != "" {
			request = fmt.Sprintf("%s %s of %s", strconv.QuoteToASCII(r.Method), strconv.QuoteToASCII(r.Path), strconv.QuoteToASCII(r.Host))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%.4g\t%.4g\t%s\n", moment(r.At, now), r.Signal, dash(r.Rule), r.Points, r.Score, request)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func caseVerdict(c *BanCase, now time.Time) string {
	if len(c.Bans) == 0 {
		return "not banned"
	}
	ban := &c.Bans[0]
	text := fmt.Sprintf("banned until %s for %s", moment(ban.Until, now), ban.Reason)
	if ban.Network != c.Network {
		text += ", with all of " + ban.Network
	}
	if ban.Trial {
		text = "would be " + text
	}
	return text
}

// banTable is the part of the admin page about bans: the ones that last
// longest, and how many there are.
func banTable(list []guard.Ban) admin.Table {
	const most = 50
	t := admin.Table{Title: fmt.Sprintf("Bans (%d)", len(list)), Columns: []string{"network", "reason", "since", "until", "bans before"}}
	for i := range list[:min(len(list), most)] {
		b := &list[i]
		row := admin.Row{State: admin.OK, Cells: []string{b.Prefix.String(), b.Reason, clock(b.Since), clock(b.Until), strconv.Itoa(b.Past)}}
		if b.Note != "" {
			row.Remarks = append(row.Remarks, strconv.Quote(b.Note))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}
