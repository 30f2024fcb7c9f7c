package admin

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestResolve(t *testing.T) {
	tests := []struct {
		name string
		tree Node
		want string // names and states, depth first
	}{
		{"leaf without a state", Node{Name: "a"}, "a=unknown"},
		{"leaf keeps its state", Node{Name: "a", State: Warn}, "a=warn"},
		{"worst child wins",
			Node{Name: "a", Children: []Node{{Name: "b", State: OK}, {Name: "c", State: Warn}, {Name: "d"}}},
			"a=warn b=ok c=warn d=unknown"},
		{"all ok", Node{Name: "a", Children: []Node{{Name: "b", State: OK}}}, "a=ok b=ok"},
		{"a set state stands",
			Node{Name: "a", State: Warn, Children: []Node{{Name: "b", State: Fail}}},
			"a=warn b=fail"},
		{"a sibling that needs the failed one is unknown",
			Node{Name: "a", Children: []Node{
				{Name: "dns", State: Fail},
				{Name: "certs", State: Fail, Needs: []string{"dns"}, Children: []Node{{Name: "x", State: Fail}, {Name: "y", State: OK}}},
			}},
			"a=fail dns=fail certs=unknown x=unknown y=ok"},
		{"what is ok stays ok",
			Node{Name: "a", Children: []Node{{Name: "dns", State: Fail}, {Name: "certs", State: OK, Needs: []string{"dns"}}}},
			"a=fail dns=fail certs=ok"},
		{"a warning hides nobody",
			Node{Name: "a", Children: []Node{{Name: "dns", State: Warn}, {Name: "certs", State: Fail, Needs: []string{"dns"}}}},
			"a=fail dns=warn certs=fail"},
		{"a chain leads to its end",
			Node{Name: "a", Children: []Node{
				{Name: "ddns", State: Fail, Needs: []string{"certs"}},
				{Name: "certs", State: Fail, Needs: []string{"dns"}},
				{Name: "dns", State: Fail},
			}},
			"a=fail ddns=unknown certs=unknown dns=fail"},
		{"a circle hides nothing",
			Node{Name: "a", Children: []Node{
				{Name: "x", State: Fail, Needs: []string{"y"}},
				{Name: "y", State: Fail, Needs: []string{"x"}},
			}},
			"a=fail x=unknown y=fail"},
		{"itself and strangers are no needs",
			Node{Name: "a", Children: []Node{{Name: "x", State: Fail, Needs: []string{"x", "nobody"}}}},
			"a=fail x=fail"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before, _ := json.Marshal(tt.tree)
			var words []string
			tt.tree.Resolve().walk(nil, func(_ []string, n Node) { words = append(words, n.Name+"="+string(n.State)) })
			if got := strings.Join(words, " "); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if after, _ := json.Marshal(tt.tree); string(after) != string(before) {
				t.Errorf("Resolve changed its receiver to %s", after)
			}
		})
	}
}

func example() (Node, time.Time) {
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	return Node{Name: "postern", Children: []Node{
		{Name: "listeners", State: OK, Children: []Node{
			{Name: "http :80", State: OK},
			{Name: "https :443", State: OK, Since: now.Add(-time.Hour)},
		}},
		{Name: "internet", State: OK, Detail: "192.0.2.7"},
		{Name: "certificates", Children: []Node{
			{Name: "mypi.duckdns.org", State: Fail, Detail: "CAA lookup timed out at ns1.duckdns.org\nagain", Since: now.Add(-12 * time.Minute)},
			{Name: "größe.example.org", State: OK, Detail: "until 2026-11-02"},
		}},
		{Name: "ddns", State: Fail, Detail: "HTTP 502", Needs: []string{"certificates"}, Since: now.Add(-26 * time.Hour)},
	}}, now
}

func TestText(t *testing.T) {
	tree, now := example()
	const want = `-        postern
ok         listeners
ok           http :80
ok           https :443
ok         internet             192.0.2.7
-          certificates
fail         mypi.duckdns.org   CAA lookup timed out at ns1.duckdns.org again (for 12m)
ok           größe.example.org  until 2026-11-02
unknown    ddns                 waits for certificates
`
	if diff := cmp.Diff(want, tree.Resolve().Text(now)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	wantCauses := []string{"certificates / mypi.duckdns.org: CAA lookup timed out at ns1.duckdns.org again"}
	if diff := cmp.Diff(wantCauses, tree.Resolve().Causes()); diff != "" {
		t.Errorf("causes (-want +got)\n%s", diff)
	}
}

// Scripts read this; names, order and words stay.
func TestJSONIsStable(t *testing.T) {
	since := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	tree := Node{Name: "postern", Children: []Node{
		{Name: "a", State: Fail, Detail: "d", Since: since},
		{Name: "b", State: OK, Needs: []string{"a"}},
	}}.Resolve()
	got, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"name":"postern","state":"fail","children":[` +
		`{"name":"a","state":"fail","detail":"d","since":"2026-05-04T12:00:00Z"},` +
		`{"name":"b","state":"ok","needs":["a"]}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var back Node
	if err := json.Unmarshal(got, &back); err != nil {
		t.Fatal(err)
	}
	if again, _ := json.Marshal(back.Resolve()); string(again) != want {
		t.Errorf("there and back: %s", again)
	}
}

func TestAgo(t *testing.T) {
	tests := []struct {
		d    time.Duration
		want string
	}{
		{-time.Hour, "0s"},
		{59 * time.Second, "59s"},
		{time.Minute, "1m"},
		{59*time.Minute + 59*time.Second, "59m"},
		{time.Hour + 5*time.Minute, "1h05m"},
		{24 * time.Hour, "1d00h"},
		{100*24*time.Hour + time.Hour, "100d01h"},
	}
	for _, tt := range tests {
		if got := ago(tt.d); got != tt.want {
			t.Errorf("ago(%v) = %q, want %q", tt.d, got, tt.want)
		}
	}
}
