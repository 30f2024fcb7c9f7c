package dnsapi

import (
	"context"
	"encoding/xml"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// route53 follows https://docs.aws.amazon.com/Route53/latest/APIReference/:
// ListHostedZonesByName, ListResourceRecordSets, ChangeResourceRecordSets. The
// key needs these three rights.
type route53 struct {
	*api
	zone string // the hosted zone, if configured
}

func newRoute53(s Settings) (named, error) {
	a, err := newAPI("route53", "https://route53.amazonaws.com", s.Endpoint, s.Secret, s.Token)
	if err != nil {
		return nil, err
	}
	key := awsKey{id: s.Key, secret: s.Secret, session: s.Token, region: "us-east-1", service: "route53", signer: v4.NewSigner()}
	a.sign = func(r *http.Request, body []byte) error { return key.sign(r, body, time.Now()) }
	return &sets{a, &route53{a, strings.TrimPrefix(s.Zone, "/hostedzone/")}}, nil
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

func (d *route53) list(ctx context.Context, op string, s recordSet) ([]record, error) {
	var out struct {
		Sets []route53Set `xml:"ResourceRecordSets>ResourceRecordSet"`
	}
	c := call{op: op, method: http.MethodGet, path: "/hostedzone/" + url.PathEscape(s.zone.id) + "/rrset",
		query: url.Values{"name": {s.name}, "type": {s.typ}, "maxitems": {"1"}}}
	if err := d.call(ctx, c, &out); err != nil {
		return nil, err
	}
	var list []record
	// The list begins at the name; what it begins with may be another one.
	for _, x := range out.Sets[:min(len(out.Sets), 1)] {
		if canonical(strings.ReplaceAll(x.Name, `\052`, "*")) != s.name || x.Type != s.typ {
			continue
		}
		for _, v := range x.Records {
			list = append(list, record{value: unquote(v), ttl: x.TTL})
		}
	}
	return list, nil
}

// write replaces the set; deleting it needs its values and TTL.
func (d *route53) write(ctx context.Context, op string, s recordSet, have []record, want []string) error {
	c := route53Change{"UPSERT", route53Set{s.name, s.typ, route53TTL, nil}}
	if len(want) == 0 {
		c.Action, c.Set.TTL = "DELETE", have[0].ttl
		for _, r := range have {
			want = append(want, r.value)
		}
	}
	for _, v := range want {
		c.Set.Records = append(c.Set.Records, s.quoted(v))
	}
	body, err := xml.Marshal(route53Batch{Changes: []route53Change{c}})
	if err != nil {
		return d.fail(op, ErrRejected, err)
	}
	return d.call(ctx, call{op: op, method: http.MethodPost, path: "/hostedzone/" + url.PathEscape(s.zone.id) + "/rrset/",
		body: append([]byte(xml.Header), body...), kind: "text/xml"}, nil)
}
