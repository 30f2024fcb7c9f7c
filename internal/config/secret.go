package config

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "<secret>"

// Secret is a text that shows itself to nobody who does not ask by name:
// however it is printed, logged or marshalled, it reads <secret>. The zero
// value is a secret that is not set. It is safe to copy; compare with Equal,
// not with ==.
type Secret struct {
	// A pointer, because fmt calls no method for %p and for a verb that does
	// not fit (%t of a struct that holds a Secret behind a pointer); what it
	// prints then is an address.
	text *string
}

// NewSecret returns text as a Secret.
func NewSecret(text string) Secret { return Secret{&text} }

// Reveal returns the text itself, "" when the secret is not set.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsSet reports whether there is a text.
func (s Secret) IsSet() bool { return s.Reveal() != "" }

// Equal reports whether both hold the same text, in a time that does not
// depend on where they differ.
func (s Secret) Equal(o Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(o.Reveal())) == 1
}

// String returns <secret>.
func (s Secret) String() string { return redacted }

// GoString returns <secret>.
func (s Secret) GoString() string { return redacted }

// Format writes <secret> for every verb, %x and %d among them.
func (s Secret) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, redacted) }

// MarshalText returns <secret>.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON returns "<secret>".
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// LogValue returns <secret>.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
