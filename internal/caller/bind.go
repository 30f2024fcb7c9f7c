package caller

// binding is a key that a token belongs to. AWS signs the tags of
// sts:GetWebIdentityToken into the token: with the thumbprint of a key in one
// of them, a token that was stolen is worth nothing without that key.
type binding struct {
	thumbprint string // RFC 7638, of an Ed25519 key; "": none
	cert       string // base64url of the SHA-256 of a client certificate (RFC 8705 section 3.1); "": none
}

// newBinding reads a binding from the tags or claims with the given names; nil
// when there is none.
func newBinding(from map[string]any, key, cert string) *binding {
	var b binding
	b.thumbprint, _ = from[key].(string)
	b.cert, _ = from[cert].(string)
	if b == (binding{}) {
		return nil
	}
	return &b
}

// prove finds out whether the request has the keys that its token belongs to.
func (b *Book) prove(r *Request, res Result) Result {
	bound := res.Identity.bound
	if bound.cert != "" && !r.Peer.is(bound.cert) {
		return refused(NotBound)
	}
	if bound.thumbprint != "" {
		return b.provesThumbprint(r, res.Identity, bound.thumbprint)
	}
	return res
}
