package config

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
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

// mayBeSecret reports whether what was written as the path of a file that does
// not exist looks like a secret instead: a URL, or a long word with digits and
// without an ending, in no folder there is.
func mayBeSecret(name, path string) bool {
	if strings.Contains(name, "://") {
		return true
	}
	if len(name) < 12 || !strings.ContainsAny(name, "0123456789") {
		return false
	}
	if ext := filepath.Ext(name); len(ext) > 1 && len(ext) <= 5 {
		return false
	}
	if strings.ContainsRune(name, filepath.Separator) {
		_, err := os.Stat(filepath.Dir(path))
		return err != nil
	}
	return true
}

// readSecret returns the content of a file without the newline at its end.
func readSecret(path string) (string, error) {
	const most = 64 << 10
	if path == "" {
		return "", errors.New("is empty, want the path of a file")
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("file %s: %w", path, pathCause(err))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("file %s: %w", path, pathCause(err))
	case len(b) > most:
		return "", fmt.Errorf("file %s: larger than 64 KiB, which no secret is", path)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if text == "" {
		return "", fmt.Errorf("file %s: empty, want the secret in it", path)
	}
	return text, nil
}
