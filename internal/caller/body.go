package caller

import (
	"crypto/sha256"
	"crypto/subtle"
)

// MaxBody bounds a body that is signed, in bytes: it is held until it was
// looked at.
const MaxBody = 1 << 20

// BodyCheck is what remains to be done of a proof that covers the body.
type BodyCheck struct {
	declared *[sha256.Size]byte // by a signature that holds; nil: finish verifies with the body's own hash
	identity *Identity
	finish   func(sum [sha256.Size]byte) Result
}

// Known reports whether the rest of the request is known to be authentic: a
// body of a stranger is worth less room.
func (c *BodyCheck) Known() bool { return c.declared != nil }

// Finish ends the proof with the whole body.
func (c *BodyCheck) Finish(body []byte) Result {
	sum := sha256.Sum256(body)
	if c.declared == nil {
		return c.finish(sum)
	}
	if subtle.ConstantTimeCompare(c.declared[:], sum[:]) != 1 {
		return refused(BodyChanged)
	}
	return found(c.identity)
}
