package config

import "time"

// Quota is what a caller may use. What is over it is answered 429 with
// Retry-After, and is not held against the caller's address. `quota: 100/s` is
// short for the rate alone.
type Quota struct {
	// Requests per time: "100/s", "5000/h". Absent: as many as it likes.
	Rate Rate `yaml:"rate"`

	// How many requests may come at once. Default: the number in rate.
	Burst int `yaml:"burst"`

	// How many requests may be under way at once. 0 (the default): as many as
	// it likes.
	Requests int `yaml:"requests"`

	// The bodies of requests and answers together in one day of UTC, in bytes
	// or with k, m or g. What is under way when they are used up is finished.
	// 0 (the default): as many as it likes.
	Bytes Size `yaml:"bytes"`
}

func (q *Quota) fromScalar(text string) (bool, error) {
	return true, q.Rate.UnmarshalText([]byte(text))
}

func (q *Quota) shorthandForm() string { return `a rate alone such as "100/s"` }

// defaultCallerWait is below the timeout that AWS gives a new Lambda function.
const defaultCallerWait = 2500 * time.Millisecond

func (c *Caller) setDefaults() { c.Wait = defaultCallerWait }

func (c *checker) quota(at string, q *Quota) {
	c.atLeast(at+".requests", q.Requests, 0)
	c.atLeast(at+".burst", q.Burst, 0)
	if q.Burst > 0 && q.Rate.Events == 0 && !c.isBroken(at+".rate") {
		c.errorf(at+".burst", "goes with rate, which is not set; add it or remove burst")
	}
}
