package testnet

import (
	"encoding/json"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// policy is an IAM policy as far as the documentation of postern needs one:
// allowing statements with a few conditions.
type policy struct {
	Version   string
	Statement []struct {
		Sid       string
		Effect    string
		Action    texts
		Resource  texts
		Condition map[string]map[string]texts
	}
}

// texts is one text or a list.
type texts []string

func (l *texts) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*l = texts{one}
		return nil
	}
	var n json.Number
	if json.Unmarshal(b, &n) == nil {
		*l = texts{n.String()}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(l))
}

// Limit makes a key good for what an IAM policy allows and nothing else.
func (a *AWS) Limit(t testing.TB, key AWSKey, document string) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(document))
	dec.DisallowUnknownFields()
	var p policy
	if err := dec.Decode(&p); err != nil {
		t.Fatalf("IAM policy: %v\n%s", err, document)
	}
	if p.Version != "2012-10-17" || len(p.Statement) == 0 {
		t.Fatalf("IAM policy: version %q, %d statements", p.Version, len(p.Statement))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.policies[key.ID] = p
}

func (p policy) allows(action, resource string, context map[string][]string) bool {
	for _, s := range p.Statement {
		if s.Effect == "Allow" && s.Action.match(action) && s.Resource.match(resource) && conditions(s.Condition, context) {
			return true
		}
	}
	return false
}

// match compares with * and ?, where * also stands for slashes.
func (l texts) match(s string) bool {
	flat := strings.NewReplacer("/", "\x00")
	return slices.ContainsFunc(l, func(pattern string) bool {
		ok, err := path.Match(flat.Replace(pattern), flat.Replace(s))
		return err == nil && ok
	})
}

// conditions knows the operators that the documentation uses. An unknown one
// never holds.
func conditions(want map[string]map[string]texts, context map[string][]string) bool {
	for operator, keys := range want {
		for key, values := range keys {
			have := context[key]
			var holds bool
			switch operator {
			case "StringEquals":
				holds = len(have) == 1 && slices.Contains(values, have[0])
			case "ForAllValues:StringEquals":
				holds = !slices.ContainsFunc(have, func(v string) bool { return !slices.Contains(values, v) })
			case "NumericLessThanEquals":
				holds = len(have) == 1 && len(values) == 1 && number(have[0]) <= number(values[0])
			}
			if !holds {
				return false
			}
		}
	}
	return true
}

func number(s string) float64 {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return -1
	}
	return n
}
