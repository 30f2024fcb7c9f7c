// Package caller establishes who is calling: by API key, signed request,
// token, AWS identity or client certificate.
//
// A Registry lives as long as the process. It holds what must survive a reload
// and a restart: the key sets of issuers, the keys that `proxy caller add`
// made, the memory of signatures that were used. A Book is one reading of the
// configuration; it judges requests from plain values and a small header
// getter, so that any HTTP engine can ask it.
//
// What strangers can make grow has a fixed bound. Looking at an API key or at
// a token that was verified before allocates nothing and waits for nobody.
package caller

import (
	"net/netip"
	"time"
)

// A Method is how a caller proved itself. The set is closed; String is its
// metric label and what backends are told.
type Method uint8

// The methods.
const (
	APIKey            Method = iota // a key of ours
	AWSToken                        // a JWT of sts:GetWebIdentityToken
	AWSIdentity                     // a presigned GetCallerIdentity, exchanged for a token of ours
	Signature                       // a SigV4-shaped HMAC with our own key id and secret
	MessageSignature                // RFC 9421
	ClientCertificate               // a certificate of the TLS client
	Token                           // a JWT of any other issuer

	numMethods = int(Token) + 1
)

var methodNames = [numMethods]string{ // read only
	APIKey: "api_key", AWSToken: "aws_jwt", AWSIdentity: "aws_sts", Signature: "signature",
	MessageSignature: "message_signature", ClientCertificate: "mtls", Token: "jwt",
}

// String returns the method's label.
func (m Method) String() string {
	if int(m) < numMethods {
		return methodNames[m]
	}
	return "unknown"
}

// Identity is a caller that proved who it is. It is never changed after it was
// made, and may be kept.
type Identity struct {
	// Name is the caller's name in the configuration.
	Name string
	// Method is how it proved itself.
	Method Method
	// Attributes are what the proof told besides, in a fixed order.
	Attributes []Attribute

	entry  *entry
	fields []Attribute
	key    *key     // what it proved itself with; nil: no API key
	bound  *binding // what every request must prove besides; nil: nothing
}

// Attribute is one thing known about a caller, such as Aws-Account. Name is
// the rest of a header field's name, Value is fit for a header field.
type Attribute struct{ Name, Value string }

// Fields are the header fields that tell a backend who calls: X-Postern-Caller,
// X-Postern-Caller-Method, and one for each attribute. The list is never
// changed.
func (id *Identity) Fields() []Attribute { return id.fields }

// KeepsCredentials reports whether the backend gets what the caller proved
// itself with.
func (id *Identity) KeepsCredentials() bool { return id.entry.keep }

// Prefix begins the names of all header fields that tell who calls. What a
// client sends under it is dropped.
const Prefix = "X-Postern-Caller"

// newIdentity makes an identity of the entry, with attributes cut and cleaned
// for header fields.
func newIdentity(e *entry, m Method, attributes ...Attribute) *Identity {
	id := &Identity{Name: e.name, Method: m, entry: e}
	id.fields = []Attribute{{Prefix, e.name}, {Prefix + "-Method", m.String()}}
	for _, a := range attributes {
		if a.Value = headerSafe(a.Value); a.Value == "" {
			continue
		}
		id.Attributes = append(id.Attributes, a)
		id.fields = append(id.fields, Attribute{Prefix + "-" + a.Name, a.Value})
	}
	return id
}

// maxAttribute bounds the value of an attribute, in bytes.
const maxAttribute = 512

// headerSafe returns s if it can be the value of a header field, "" otherwise:
// half a value would be another one.
func headerSafe(s string) string {
	if len(s) > maxAttribute {
		return ""
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return ""
		}
	}
	if s != "" && (s[0] == ' ' || s[len(s)-1] == ' ') {
		return ""
	}
	return s
}

// Header reads the fields of a request. Field returns the value of a field by
// its canonical name, "" if there is none, the first if there are several;
// List returns all of them.
type Header interface {
	Field(name string) string
	List(name string) []string
}

// Credentials are the fields that may prove who calls, as one pass over the
// header finds them.
type Credentials struct {
	Authorization string // the value of Authorization; "": none
	APIKey        string // the value of X-Api-Key; "": none
	Signed        bool   // there is a Signature-Input (RFC 9421)
	Doubled       bool   // Authorization or X-Api-Key is there twice, so that two readers could take two of them
}

// Any reports whether there is anything to judge.
func (c *Credentials) Any() bool {
	return c.Authorization != "" || c.APIKey != "" || c.Signed || c.Doubled
}

// Request is what is known of a request when its caller is asked for. Its
// texts are not kept.
type Request struct {
	Method string
	Scheme string // as the client sees it
	Host   string // as the client sent it
	Path   string // as the client sent it, percent-encoding included
	Query  string // as the client sent it, without "?"
	Fields Header
	Credentials

	Peer    *Peer      // the client's certificate; nil: none
	Memo    *Memo      // of the connection; nil: none
	Client  netip.Addr // who asks, for limits
	HasBody bool
	Now     time.Time
}

// Result is what became of a request's credentials. With an Identity there is
// no Failure. With Body set, the identity is not established before the body
// was looked at.
type Result struct {
	Identity *Identity
	Failure  Failure
	Body     *BodyCheck
	Spent    Spent
}

// Spent says which field of a request held the secret that proved its caller.
type Spent uint8

// The fields that may be spent.
const (
	NothingSpent Spent = iota
	SpentAuthorization
	SpentAPIKey
)

// found is the result of a proof that holds.
func found(id *Identity) Result { return Result{Identity: id} }

// refused is the result of one that does not.
func refused(f Failure) Result { return Result{Failure: f} }
