package caller

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"
)

// maxSignatures bounds how many signatures of one request are looked at (RFC
// 9421 section 4.3 allows several).
const maxSignatures = 4

// messageSignature is one signature of RFC 9421.
type messageSignature struct {
	input      httpsfv.InnerList
	components []string
	signature  []byte
	created    time.Time
	expires    time.Time // zero: not said
	keyID      string
	algorithm  string // "": not said
	nonce      string // "": not said
}

// messageSignatures reads Signature-Input and Signature.
func messageSignatures(r *Request) (out []messageSignature, ok bool) {
	inputs, err := httpsfv.UnmarshalDictionary(r.Fields.List("Signature-Input"))
	if err != nil {
		return nil, false
	}
	signatures, err := httpsfv.UnmarshalDictionary(r.Fields.List("Signature"))
	if err != nil {
		return nil, false
	}
	for _, label := range inputs.Names()[:min(len(inputs.Names()), maxSignatures)] {
		member, _ := inputs.Get(label)
		m := messageSignature{}
		if m.input, ok = member.(httpsfv.InnerList); !ok {
			return nil, false
		}
		value, _ := signatures.Get(label)
		item, ok := value.(httpsfv.Item)
		if !ok {
			return nil, false
		}
		if m.signature, ok = item.Value.([]byte); !ok || !m.read() {
			return nil, false
		}
		out = append(out, m)
	}
	return out, len(out) > 0
}

// read takes the components and parameters out of the input.
func (m *messageSignature) read() bool {
	if len(m.input.Items) > maxSigned {
		return false
	}
	for _, item := range m.input.Items {
		name, ok := item.Value.(string)
		if !ok || item.Params != nil && len(item.Params.Names()) > 0 || slices.Contains(m.components, name) || name != strings.ToLower(name) {
			return false // parameters select parts of a field, and none is needed here
		}
		m.components = append(m.components, name)
	}
	if m.input.Params == nil {
		return false
	}
	for _, name := range m.input.Params.Names() {
		v, _ := m.input.Params.Get(name)
		text, isText := v.(string)
		unix, isNumber := v.(int64)
		ok := true
		switch name {
		case "created":
			m.created, ok = time.Unix(unix, 0), isNumber
		case "expires":
			m.expires, ok = time.Unix(unix, 0), isNumber
		case "keyid":
			m.keyID, ok = text, isText
		case "alg":
			m.algorithm, ok = text, isText
		case "nonce":
			m.nonce, ok = text, isText
		}
		if !ok {
			return false
		}
	}
	return !m.created.IsZero()
}

// messageSigned judges a request by its message signatures: the first with a
// key of ours counts.
func (b *Book) messageSigned(r *Request) Result {
	list, ok := messageSignatures(r)
	if !ok {
		return refused(Malformed)
	}
	for i := range list {
		m := &list[i]
		s := b.signers[m.keyID]
		if s == nil {
			continue
		}
		return b.judgeMessage(r, m, s)
	}
	return refused(UnknownKey)
}

func (b *Book) judgeMessage(r *Request, m *messageSignature, s *signer) Result {
	declared, signsBody, f := m.covers(r, s.rule.UnsignedPayload)
	if f != NoCredentials {
		return refused(f)
	}
	base, ok := m.base(r)
	if !ok {
		return refused(Malformed)
	}
	switch {
	case s.rule.Secret != "" && (m.algorithm == "hmac-sha256" || m.algorithm == ""):
		if subtle.ConstantTimeCompare(mac([]byte(s.rule.Secret), base), m.signature) != 1 {
			return refused(BadSignature)
		}
	case len(s.rule.PublicKey) == ed25519.PublicKeySize && (m.algorithm == "ed25519" || m.algorithm == "" && s.rule.Secret == ""):
		if !ed25519.Verify(s.rule.PublicKey, []byte(base), m.signature) {
			return refused(BadSignature)
		}
	default:
		return refused(BadAlgorithm)
	}
	res := b.usedMessage(s.messages, m, r.Now)
	if !signsBody {
		return res
	}
	return withBody(res, r, declared)
}

// usedMessage takes a signature that holds, once.
func (b *Book) usedMessage(id *Identity, m *messageSignature, now time.Time) Result {
	at, _ := b.registry.clock.judge(now)
	if !m.expires.IsZero() && at.After(m.expires.Add(leeway)) {
		return refused(Expired)
	}
	proof := append([]byte("msg "+m.keyID+" "), m.signature...)
	if m.nonce != "" {
		proof = []byte("nonce " + m.keyID + " " + m.nonce)
	}
	return b.used(id, proof, m.created, now)
}

// covers reports whether the signature covers what it must: the method, where
// the request goes, and the body. It returns the hash of the body that is
// signed.
func (m *messageSignature) covers(r *Request, unsignedPayload bool) (declared [sha256.Size]byte, signsBody bool, f Failure) {
	has := func(names ...string) bool {
		for _, n := range names {
			if !slices.Contains(m.components, n) {
				return false
			}
		}
		return true
	}
	whole := has("@target-uri") || has("@authority", "@request-target") || has("@authority", "@path") && (r.Query == "" || has("@query"))
	if !has("@method") || !whole {
		return declared, false, Incomplete
	}
	if !has("content-digest") {
		if r.HasBody && !unsignedPayload {
			return declared, false, Incomplete
		}
		return declared, false, NoCredentials
	}
	digest, err := httpsfv.UnmarshalDictionary(r.Fields.List("Content-Digest")) // RFC 9530 section 2
	if err != nil {
		return declared, false, Malformed
	}
	value, _ := digest.Get("sha-256")
	item, _ := value.(httpsfv.Item)
	sum, ok := item.Value.([]byte)
	if !ok || len(sum) != len(declared) {
		return declared, false, Incomplete
	}
	return [sha256.Size]byte(sum), true, NoCredentials
}

// base is what is signed (RFC 9421 section 2.5).
func (m *messageSignature) base(r *Request) (string, bool) {
	var b strings.Builder
	for _, name := range m.components {
		value, ok := component(r, name)
		if !ok {
			return "", false
		}
		b.WriteString(`"` + name + `": ` + value + "\n")
	}
	params, err := httpsfv.Marshal(httpsfv.List{m.input})
	if err != nil {
		return "", false
	}
	b.WriteString(`"@signature-params": ` + params)
	return b.String(), true
}

// component is the value of one component of a request (RFC 9421 section 2).
func component(r *Request, name string) (string, bool) {
	path := r.Path
	if path == "" {
		path = "/"
	}
	target := path
	if r.Query != "" {
		target += "?" + r.Query
	}
	switch name {
	case "@method":
		return r.Method, true
	case "@scheme":
		return r.Scheme, true
	case "@authority":
		return authorityOf(r), true
	case "@target-uri":
		return r.Scheme + "://" + authorityOf(r) + target, true
	case "@request-target":
		return target, true
	case "@path":
		return path, true
	case "@query":
		return "?" + r.Query, true
	}
	if strings.HasPrefix(name, "@") {
		return "", false
	}
	values := r.Fields.List(textproto.CanonicalMIMEHeaderKey(name))
	if len(values) == 0 {
		return "", false
	}
	trimmed := make([]string, len(values))
	for i, v := range values {
		trimmed[i] = strings.TrimSpace(v)
	}
	return strings.Join(trimmed, ", "), true
}

// authorityOf is the host in lower case, without a port that the scheme implies
// (RFC 9421 section 2.2.3).
func authorityOf(r *Request) string {
	host := strings.ToLower(r.Host)
	if r.Scheme == "https" {
		return strings.TrimSuffix(host, ":443")
	}
	return strings.TrimSuffix(host, ":80")
}

// provesThumbprint judges a request whose token is bound to an Ed25519 key: it
// is signed with that key, whose own bytes are the key id, in base64url, so
// that nobody has to know it beforehand.
func (b *Book) provesThumbprint(r *Request, id *Identity, thumbprint string) Result {
	if !r.Signed {
		return refused(NotBound)
	}
	list, ok := messageSignatures(r)
	if !ok {
		return refused(Malformed)
	}
	for i := range list {
		m := &list[i]
		public, err := base64.RawURLEncoding.DecodeString(m.keyID)
		if err != nil || len(public) != ed25519.PublicKeySize || subtle.ConstantTimeCompare([]byte(thumbprintOf(public)), []byte(thumbprint)) != 1 {
			continue
		}
		if m.algorithm != "" && m.algorithm != "ed25519" {
			return refused(BadAlgorithm)
		}
		declared, signsBody, f := m.covers(r, false)
		if f != NoCredentials {
			return refused(f)
		}
		base, ok := m.base(r)
		if !ok {
			return refused(Malformed)
		}
		if !ed25519.Verify(public, []byte(base), m.signature) {
			return refused(BadSignature)
		}
		res := b.usedMessage(id, m, r.Now)
		if !signsBody {
			return res
		}
		return withBody(res, r, declared)
	}
	return refused(NotBound)
}

// thumbprintOf is the thumbprint of an Ed25519 key (RFC 7638 section 3, RFC
// 8037 section 2), in base64url.
func thumbprintOf(public []byte) string {
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + base64.RawURLEncoding.EncodeToString(public) + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
