package caller

import (
	"strings"
)

// AWS says which AWS identities are a caller.
type AWS struct {
	// Issuer is that of the account's web-identity tokens,
	// https://UUID.tokens.sts.global.api.aws; "": they are not taken.
	Issuer string
	// Audience is what the token, or the signed header of a presigned
	// request, must be for. Required.
	Audience string
	// Roots is the PEM of the roots trusted for the issuer's server and for
	// STS; "": the system's.
	Roots string
	// Role is a pattern of the role's ARN, arn:aws:iam::ACCOUNT:role/NAME; see
	// matchPattern. Its account is exact. Required.
	Role string
	// Function is a pattern of the ARN of the Lambda function that got the
	// token; "": any function, or none.
	Function string
	// STSRegion takes presigned GetCallerIdentity requests for the region's
	// endpoint; "": none are taken.
	STSRegion string
	// STSEndpoint is the endpoint's URL; "": https://sts.REGION.amazonaws.com.
	STSEndpoint string
	// Bound takes tokens only that are bound to a key (see bind).
	Bound bool
}

// awsClaim holds the claims of AWS itself.
const awsClaim = "https://sts.amazonaws.com/"

// arn is the parts of an Amazon resource name.
type arn struct{ partition, service, region, account, resource string }

// parseARN reads arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE.
func parseARN(s string) (a arn, ok bool) {
	parts := strings.SplitN(s, ":", 6)
	if len(parts) != 6 || parts[0] != "arn" || parts[1] == "" || parts[2] == "" || parts[5] == "" {
		return a, false
	}
	return arn{parts[1], parts[2], parts[3], parts[4], parts[5]}, true
}

// isAccount reports whether s is the number of an AWS account.
func isAccount(s string) bool {
	return len(s) == 12 && strings.Trim(s, "0123456789") == ""
}

// judge finds out whether a token that is authentic and for us is of the
// caller. The account is told three times, by the rule, by the subject and by
// a claim of its own, and must be the same.
func (r *AWS) judge(e *entry, c *claims, all map[string]any) Result {
	own, _ := all[awsClaim].(map[string]any)
	account, _ := own["aws_account"].(string)
	rule, ok := parseARN(r.Role)
	role, ok2 := parseARN(c.Subject)
	if !ok || !ok2 || !isAccount(account) || role.account != account || rule.account != account {
		return refused(NotListed)
	}
	if role.service != "iam" || !strings.HasPrefix(role.resource, "role/") || !matchPattern(r.Role, c.Subject) {
		return refused(NotListed)
	}
	function, _ := own["lambda_source_function_arn"].(string)
	if r.Function != "" {
		f, ok := parseARN(function)
		if !ok || f.service != "lambda" || f.account != account || !matchPattern(r.Function, function) {
			return refused(NotListed)
		}
	}
	region, _ := own["source_region"].(string)
	id := newIdentity(e, AWSToken,
		Attribute{"Aws-Account", account}, Attribute{"Aws-Role", c.Subject},
		Attribute{"Aws-Function", function}, Attribute{"Aws-Region", region})
	tags, _ := own["request_tags"].(map[string]any)
	id.bound = newBinding(tags, "cnf", "x5t.S256")
	if r.Bound && id.bound == nil {
		return refused(NotBound)
	}
	return found(id)
}
