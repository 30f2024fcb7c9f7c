package config

import "time"

// Idempotency lets a POST or PATCH that comes with an Idempotency-Key field
// happen once (draft-ietf-httpapi-idempotency-key-header): whoever sends it
// again, because the answer got lost, gets the answer of the first time, with
// Idempotency-Replayed: true. The first is carried out to its end even if its
// caller leaves; meanwhile repetitions wait. The same key with another request
// is answered 422. Answers are kept in memory for 10 minutes, apart for each
// caller, or for each Authorization, X-Api-Key and Cookie: 16 MiB for known
// callers together, 4 MiB for everybody else.
// `idempotency: true` takes the defaults.
type Idempotency struct {
	// Whether a POST or PATCH without a key is refused (400). Default false:
	// it happens each time it comes.
	Required bool `yaml:"required"`

	// How long a repetition waits for the first, at most 1m; then it is
	// answered 409 with Retry-After. Default 10s.
	Wait time.Duration `yaml:"wait"`

	// The largest body of a request with a key, at most 16m. Default 1m.
	MaxBody Size `yaml:"max_body"`

	// The largest answer that is kept, at most 4m; a larger one is passed on
	// and forgotten. Default 256k.
	MaxAnswer Size `yaml:"max_answer"`
}

func (i *Idempotency) setDefaults() { i.Wait, i.MaxBody, i.MaxAnswer = 10*time.Second, 1<<20, 256<<10 }

func (i *Idempotency) fromScalar(text string) (bool, error) { return parseBool(text) }

func (i *Idempotency) shorthandForm() string { return "true or false" }

func (c *checker) idempotency(at string, i *Idempotency) {
	c.at(at+".wait", func() {
		if i.Wait < 0 || i.Wait > time.Minute {
			c.errorf(at+".wait", "%s, want 0s to 1m: clients do not wait longer", formatDuration(i.Wait))
		}
	})
	bound := func(key string, got, most Size) {
		c.at(at+key, func() {
			if got < 1 || got > most {
				c.errorf(at+key, "%s, want 1 to %s: it is held in memory", got, most)
			}
		})
	}
	bound(".max_body", i.MaxBody, 16<<20)
	bound(".max_answer", i.MaxAnswer, 4<<20)
}
