package config

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// maxCallers bounds the callers, and with them the series of metrics.
const maxCallers = 200

// maxKeyHashes is how many API keys one caller may have at a time: the old one
// and the new one.
const maxKeyHashes = 2

func (c *checker) callers() {
	if c.isBroken("callers") && len(c.cfg.Callers) == 0 {
		return
	}
	if n := len(c.cfg.Callers); n > maxCallers {
		c.errorf("callers", "%d callers, want at most %d", n, maxCallers)
		return
	}
	taken := map[string]string{} // hash -> key path
	for _, name := range slices.Sorted(maps.Keys(c.cfg.Callers)) {
		at := "callers." + name
		c.callerName(at, name)
		if caller := c.cfg.Callers[name]; caller != nil && !c.broken[at] {
			c.caller(at, caller, taken)
		}
	}
}

func (c *checker) callerName(at, name string) {
	if err := CheckCallerName(name); err != nil {
		c.errorf(at, "%v", err)
	}
}

// CheckCallerName reports what is wrong with the name of a caller, and the way
// out.
func CheckCallerName(name string) error {
	switch {
	case name == AnyCaller || name == "none":
		return fmt.Errorf("%q means everybody or nobody where callers are listed; choose another name", name)
	case name == "" || len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}):
		return fmt.Errorf("%q is no name for a caller, want up to 64 lower-case letters, digits, \"-\" and \"_\"", name)
	}
	return nil
}

func (c *checker) caller(at string, caller *Caller, taken map[string]string) {
	c.keyHashes(at+".api_key_hash", caller.APIKeyHash, taken)
	c.notNegative(at+".wait", caller.Wait)
	if q := caller.Quota; q != nil && !c.isBroken(at+".quota") {
		c.quota(at+".quota", q)
	}
	if a := caller.AWS; a != nil && !c.broken[at+".aws"] {
		c.awsCaller(at+".aws", a)
	}
	if g := caller.Signature; g != nil && !c.broken[at+".signature"] {
		c.signatureCaller(at+".signature", g, taken)
	}
	if m := caller.MTLS; m != nil && !c.broken[at+".mtls"] {
		c.mtlsCaller(at+".mtls", m)
	}
	if j := caller.JWT; j != nil && !c.broken[at+".jwt"] {
		c.jwtCaller(at+".jwt", j)
	}
}

// needs reports a key that must be there; it returns whether it is.
func (c *checker) needs(path, key, value, want string) bool {
	if value != "" {
		return !c.isBroken(path + "." + key)
	}
	switch at := path + "." + key; {
	case c.written(at) && !c.isBroken(at):
		c.errorf(at, "is empty, want %s", want)
	case !c.written(at) && !c.unknown[path]:
		c.errorf(path, "has no %s, want %s", key, want)
	}
	return false
}

func (c *checker) awsCaller(path string, a *AWSCaller) {
	c.stsRegion(path, a)
	if a.STSRegion != "" && !c.written(path+".issuer") {
		// presigned requests alone
	} else if c.needs(path, "issuer", a.Issuer, "the account's issuer, https://UUID.tokens.sts.global.api.aws") {
		c.issuerURL(path+".issuer", a.Issuer)
		u, err := url.Parse(a.Issuer)
		if err == nil && !strings.HasSuffix(u.Hostname(), ".tokens.sts.global.api.aws") && !nearby(u.Hostname()) {
			c.errorf(path+".issuer", "%q is not AWS's, want https://UUID.tokens.sts.global.api.aws as `aws iam enable-outbound-web-identity-federation` tells; other issuers go under jwt", a.Issuer)
		}
	}
	c.needs(path, "audience", a.Audience, "what the token must be for, such as https://mypi.duckdns.org")
	if c.written(path + ".ca") {
		c.file(path+".ca", a.CA)
	}
	account := ""
	if c.needs(path, "role", a.Role, "a role such as arn:aws:iam::123456789012:role/orders") {
		account = c.arn(path+".role", a.Role, "iam", "role/", "arn:aws:iam::123456789012:role/orders")
	}
	if c.written(path+".function") && !c.isBroken(path+".function") {
		of := c.arn(path+".function", a.Function, "lambda", "function:", "arn:aws:lambda:eu-west-1:123456789012:function:orders")
		if of != "" && account != "" && of != account {
			c.errorf(path+".function", "is of the account %s and the role of %s, so no token has both; correct one of them", of, account)
		}
	}
}

func (c *checker) stsRegion(path string, a *AWSCaller) {
	at := path + ".sts_region"
	switch {
	case c.written(at) && !c.isBroken(at) && !regionForm.MatchString(a.STSRegion):
		c.errorf(at, "%q is no region, want one such as eu-west-1; the global endpoint is not taken", a.STSRegion)
	case a.STSRegion != "" && a.Function != "":
		c.errorf(path+".function", "STS tells no function, so with sts_region any function that has the role would do; remove one of them")
	}
	if at := path + ".sts_endpoint"; c.written(at) {
		c.at(at, func() { c.httpsURL(at, a.STSEndpoint) })
		if a.STSRegion == "" && !c.written(path+".sts_region") {
			c.errorf(at, "goes with sts_region, which the signatures are for")
		}
	}
}

// arn checks a pattern of an Amazon resource name and returns its account, ""
// when it was reported.
func (c *checker) arn(at, s, service, kind, form string) (account string) {
	parts := strings.SplitN(s, ":", 6)
	name := ""
	if len(parts) == 6 {
		name = strings.TrimPrefix(parts[5], kind)
	}
	switch {
	case len(parts) != 6 || parts[0] != "arn":
		c.errorf(at, "%q is no ARN, want a form such as %s", s, form)
	case service == "iam" && parts[2] == "sts" && strings.HasPrefix(parts[5], "assumed-role/"):
		c.errorf(at, "%q is a session of a role, want the role itself: arn:%s:iam::%s:role/%s", s, parts[1], parts[4], strings.Split(parts[5], "/")[1])
	case parts[2] != service || !strings.HasPrefix(parts[5], kind) || name == "" || service == "iam" && parts[3] != "":
		c.errorf(at, "%q is another kind of ARN, want a form such as %s", s, form)
	case len(parts[4]) != 12 || strings.Trim(parts[4], "0123456789") != "":
		c.errorf(at, "%q: %q is not the number of an account, want 12 digits; patterns are not allowed there", s, parts[4])
	case strings.Contains(parts[1], "*") || strings.Contains(parts[1], "?"):
		c.errorf(at, "%q: %q is not a partition, want aws, aws-cn or aws-us-gov", s, parts[1])
	default:
		if strings.Trim(name, "*?/:") == "" {
			c.warnf(at, "%q is anything of the account %s; write the name, if only one is meant", s, parts[4])
		}
		return parts[4]
	}
	return ""
}

func (c *checker) signatureCaller(path string, g *SignatureCaller, taken map[string]string) {
	if at := path + ".key_id"; c.needs(path, "key_id", g.KeyID, "a name for the key, such as shop-1") {
		switch first := taken["key_id "+g.KeyID]; {
		case len(g.KeyID) > 128 || strings.ContainsFunc(g.KeyID, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`/,"\`, r) }):
			c.errorf(at, "%q is no name for a key, want up to 128 letters, digits and signs other than / , \" and \\", g.KeyID)
		case first != "":
			c.errorf(at, "%s is that of %s too; each key belongs to one caller", g.KeyID, c.where(first))
		default:
			taken["key_id "+g.KeyID] = at
		}
	}
	at := path + ".secret"
	if c.written(at + "_file") {
		at += "_file"
	}
	if n := len(g.Secret.Reveal()); c.written(at) && !c.isBroken(at) && n < 32 {
		c.errorf(at, "the secret has %d characters, want 32 or more; `openssl rand -base64 32` makes one", n)
	}
	if !c.written(at) && g.PublicKey == "" && !c.written(path+".public_key") && !c.unknown[path] {
		c.errorf(path, "has neither secret nor public_key, want secret: and a text that `openssl rand -base64 32` made")
	}
	if at := path + ".public_key"; c.written(at) && !c.isBroken(at) {
		if raw, err := base64.StdEncoding.DecodeString(g.PublicKey); err != nil || len(raw) != 32 {
			c.errorf(at, "is no Ed25519 key, want its 32 bytes in base64, 44 characters")
		}
	}
}

func (c *checker) mtlsCaller(path string, m *MTLSCaller) {
	own := !c.written(path + ".ca")
	for _, f := range []struct{ key, name string }{{".ca", m.CA}, {".crl", m.CRL}} {
		if c.written(path + f.key) {
			c.file(path+f.key, f.name)
		}
	}
	switch {
	case c.unknown[path]:
	case own && m.CRL != "":
		c.errorf(path+".crl", "goes with ca; `proxy caller revoke` takes certificates of the built-in authority back")
	case !own && m.Subject == "":
		c.errorf(path, "has no subject, so that every certificate of the authority would do; write the common name or an alternative name")
	}
}

func (c *checker) jwtCaller(path string, j *JWTCaller) {
	if c.needs(path, "issuer", j.Issuer, "the issuer's URL, as in the iss claim of its tokens") {
		c.issuerURL(path+".issuer", j.Issuer)
	}
	if j.Claims["client_id"] == "" {
		c.needs(path, "audience", j.Audience, "the aud claim of the tokens, so that one that was made for somebody else is not taken; Cognito's access tokens have client_id under claims instead")
	}
	if c.written(path + ".keys") {
		c.at(path+".keys", func() { c.httpsURL(path+".keys", j.Keys) })
	}
	if c.written(path + ".ca") {
		c.file(path+".ca", j.CA)
	}
	if len(j.Claims) == 0 && !c.broken[path+".claims"] && !c.unknown[path] {
		c.errorf(path, "has no claims, so that every token of the issuer for this audience would do; name at least one, such as claims: {sub: …}")
	}
	for _, name := range slices.Sorted(maps.Keys(j.Claims)) {
		at := path + ".claims." + name
		c.at(at, func() {
			switch v := j.Claims[name]; {
			case v == "":
				c.errorf(at, "is empty, want the claim's value or a pattern of it")
			case strings.Trim(v, "*") == "":
				c.errorf(at, "%q is any value, which says nothing about who calls; write a part of it", v)
			}
		})
	}
}

// issuerURL checks the URL of an issuer, which is compared byte for byte.
func (c *checker) issuerURL(at, s string) {
	if c.httpsURL(at, s) && strings.ContainsAny(s, "?#") {
		c.errorf(at, "%q has a query or a fragment, which no issuer has (RFC 8414 section 2)", redactURL(s))
	}
}

// httpsURL checks a URL that keys come from.
func (c *checker) httpsURL(at, s string) bool {
	u, err := checkURL(s)
	switch {
	case err != nil:
		c.errorf(at, "%v", err)
	case u.User != nil:
		c.errorf(at, "%q holds a user name, which does not belong there", redactURL(s))
	case u.Scheme != "https" && !isLoopbackHost(u.Hostname()):
		c.errorf(at, "%q is not https, so anyone on the way could replace the keys", redactURL(s))
	default:
		return true
	}
	return false
}

func (c *checker) keyHashes(path string, hashes []string, taken map[string]string) {
	if len(hashes) > maxKeyHashes {
		c.errorf(path, "%d keys, want at most %d: the old one and the new one", len(hashes), maxKeyHashes)
	}
	for i, h := range hashes {
		at := c.item(path, i)
		c.at(at, func() {
			digits, ok := strings.CutPrefix(h, "sha256:")
			_, err := hex.DecodeString(digits)
			switch {
			case strings.HasPrefix(h, "postern_"):
				c.errorf(at, "is a key and not its hash; write \"sha256:\" and what `printf %%s KEY | sha256sum` tells, and make a new key, as this one has been in a file")
			case !ok || err != nil || len(digits) != 64:
				c.errorf(at, "is not \"sha256:\" and 64 hexadecimal digits, want what `printf %%s KEY | sha256sum` tells, or make a key with `proxy caller add NAME`")
			case taken[strings.ToLower(digits)] != "":
				c.errorf(at, "is the hash of %s too; each key belongs to one caller", c.where(taken[strings.ToLower(digits)]))
			default:
				taken[strings.ToLower(digits)] = at
			}
		})
	}
}

// callerNames checks who may use a site or route.
func (c *checker) callerNames(path string, names CallerNames) {
	if len(names) == 0 && c.written(path) && !c.broken[path] {
		c.errorf(path, "is empty, so nobody could use it; name callers, or write any for everybody")
	}
	known := slices.Sorted(maps.Keys(c.cfg.Callers))
	for i, name := range names {
		at := c.item(path, i)
		c.at(at, func() {
			switch {
			case name == AnyCaller && len(names) > 1:
				c.errorf(at, "any is everybody, which makes the other names mean nothing; keep any or the names")
			case name == AnyCaller:
			case slices.Contains(names[:i], name):
				c.errorf(at, "%s is given twice; keep one", name)
			case c.cfg.Callers[name] != nil || c.isBroken("callers"):
			case len(known) == 0:
				c.errorf(at, "%q is no caller, as there are none; write callers: {%s: {}} at the top level and make a key with `proxy caller add %s`", name, name, name)
			default:
				c.errorf(at, "%q is no caller, want %s or any%s", name, oneOf(known), didYouMean(name, append(known, AnyCaller)))
			}
		})
	}
}
