package tlsmgr

import (
	"errors"
	"fmt"
	"testing"

	"github.com/mholt/acmez/v3/acme"
)

func TestRefusesReplacing(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want bool
	}{
		{"nil", nil, false},
		{"no problem document", errors.New("the given certificate"), false},
		{"already replaced", acme.Problem{Type: "urn:ietf:params:acme:error:alreadyReplaced"}, true},
		{"not known", fmt.Errorf("order: %w", acme.Problem{Type: acme.ProblemTypeServerInternal, Detail: "could not find an order for the given certificate: x"}), true},
		{"trouble of its own", acme.Problem{Type: acme.ProblemTypeServerInternal, Detail: "database"}, false},
		{"a validation", acme.Problem{Type: acme.ProblemTypeDNS, Detail: "to replace", Resource: acme.Authorization{}}, false},
	} {
		if got := refusesReplacing(c.err); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}
