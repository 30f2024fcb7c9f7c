package dnsapi

import (
	"context"
	"encoding/xml"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// route53 follows https://docs.aws.amazon.com/Route53/latest/APIReference/:
// ListHostedZonesByName, ListResourceRecordSets, ChangeResourceRecordSets. The
// key needs these three rights.
type route53 struct {
	*api
	zone string // the hosted zone, if configured
}

func newRoute53(s Settings) (Provider, error) {
	a, err := newAPI("route53", "https://route53.amazonaws.com", s.Endpoint, s.Secret, s.Token)
	if err != nil {
		return nil, err
	}
	key := awsKey{id: s.Key, secret: s.Secret, session: s.Token, region: "us-east-1", service: "route53"}
	a.sign = func(r *http.Request, body []byte) { key.sign(r, body, time.Now()) }
	return &route53{a, strings.TrimPrefix(s.Zone, "/hostedzone/")}, nil
}

type route53Set struct {
	Name    string   `xml:"Name"`
	Type    string   `xml:"Type"`
	TTL     int      `xml:"TTL"`
	Records []string `xml:"ResourceRecords>ResourceRecord>Value"`
}

type route53Change struct {
	Action string     `xml:"Action"` // CREATE, DELETE, UPSERT
	Set    route53Set `xml:"ResourceRecordSet"`
}

type route53Batch struct {
	XMLName xml.Name        `xml:"https://route53.amazonaws.com/doc/2013-04-01/ ChangeResourceRecordSetsRequest"`
	Changes []route53Change `xml:"ChangeBatch>Changes>Change"`
}

const route53TTL = 60

// call sends c and reads XML into out. Throttling comes as 400 with a code.
func (d *route53) call(ctx context.Context, c call, out any) error {
	c.path = "/2013-04-01" + c.path
	got, err := d.do(ctx, c)
	if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusBadRequest &&
		(strings.HasPrefix(e.Detail, "Throttling") || strings.HasPrefix(e.Detail, "PriorRequestNotComplete")) {
		e.Kind = ErrLimited
	}
	if err != nil || out == nil {
		return err
	}
	if err := xml.Unmarshal(got.body, out); err != nil {
		return &Error{Provider: d.provider, Op: c.op, Kind: ErrUnreachable, Status: got.status,
			Means: "the answer is not what the API documents; something else may answer in its place"}
	}
	return nil
}

// look asks for each name above whether it is a public hosted zone.
func (d *route53) look(ctx context.Context, name string) (zone, error) {
	if d.zone != "" {
		return zone{id: d.zone}, nil
	}
	op := "find the hosted zone of " + name
	for _, n := range ancestors(name) {
		var out struct {
			Zones []struct {
				ID      string `xml:"Id"`
				Name    string `xml:"Name"`
				Private bool   `xml:"Config>PrivateZone"`
			} `xml:"HostedZones>HostedZone"`
		}
		c := call{op: op, method: http.MethodGet, path: "/hostedzonesbyname", query: url.Values{"dnsname": {n}, "maxitems": {"10"}}}
		if err := d.call(ctx, c, &out); err != nil {
			return zone{}, err
		}
		for _, z := range out.Zones {
			if canonical(z.Name) == n && !z.Private {
				return zone{name: n, id: strings.TrimPrefix(z.ID, "/hostedzone/")}, nil
			}
		}
	}
	return zone{}, d.rejected(op, "no public hosted zone of this account holds the name")
}

// AddTXT implements TXT.
func (d *route53) AddTXT(ctx context.Context, name, value string) error {
	return d.edit(ctx, "add TXT to "+name, canonical(name), func(have []string) []string {
		if slices.Contains(have, quote(value)) {
			return have
		}
		return append(have, quote(value))
	})
}

// RemoveTXT implements TXT.
func (d *route53) RemoveTXT(ctx context.Context, name, value string) error {
	return d.edit(ctx, "remove TXT from "+name, canonical(name), func(have []string) []string {
		return slices.DeleteFunc(have, func(s string) bool { return unquote(s) == value })
	})
}

func (d *route53) edit(ctx context.Context, op, name string, change func([]string) []string) error {
	z, err := d.zones.find(ctx, name, d.look)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var out struct {
		Sets []route53Set `xml:"ResourceRecordSets>ResourceRecordSet"`
	}
	c := call{op: op, method: http.MethodGet, path: "/hostedzone/" + url.PathEscape(z.id) + "/rrset",
		query: url.Values{"name": {name}, "type": {"TXT"}, "maxitems": {"1"}}}
	if err := d.call(ctx, c, &out); err != nil {
		if notFound(err) {
			d.zones.forget(name)
		}
		return err
	}
	var have route53Set
	// The list begins at the name; what it begins with may be another one.
	if len(out.Sets) > 0 && canonical(strings.ReplaceAll(out.Sets[0].Name, `\052`, "*")) == name && out.Sets[0].Type == "TXT" {
		have = out.Sets[0]
	}
	next := change(slices.Clone(have.Records))
	switch {
	case slices.Equal(next, have.Records):
		return nil
	case len(next) == 0:
		have.Name = name
		return d.change(ctx, op, z, route53Change{"DELETE", have})
	}
	return d.change(ctx, op, z, route53Change{"UPSERT", route53Set{name, "TXT", route53TTL, next}})
}

func (d *route53) change(ctx context.Context, op string, z zone, changes ...route53Change) error {
	body, err := xml.Marshal(route53Batch{Changes: changes})
	if err != nil {
		return d.fail(op, ErrRejected, err)
	}
	return d.call(ctx, call{op: op, method: http.MethodPost, path: "/hostedzone/" + url.PathEscape(z.id) + "/rrset/",
		body: append([]byte(xml.Header), body...), kind: "text/xml"}, nil)
}

// SetAddrs implements Addrs.
func (d *route53) SetAddrs(ctx context.Context, name string, v4, v6 netip.Addr) error {
	name = canonical(name)
	var changes []route53Change
	if v4.IsValid() {
		changes = append(changes, route53Change{"UPSERT", route53Set{name, "A", route53TTL, []string{v4.String()}}})
	}
	if v6.IsValid() {
		changes = append(changes, route53Change{"UPSERT", route53Set{name, "AAAA", route53TTL, []string{v6.String()}}})
	}
	if len(changes) == 0 {
		return nil
	}
	z, err := d.zones.find(ctx, name, d.look)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.change(ctx, "set addresses of "+name, z, changes...)
}
