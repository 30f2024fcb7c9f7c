package h2

import (
	"testing"
	"testing/synctest"
)

// Bytes that come after a look at the body are not part of what was handed
// out, even if they are its last: whoever takes the body for complete then
// would pass on half of it.
func TestBodyDone(t *testing.T) {
	type look struct {
		got        string
		here, done bool
	}
	next := make(chan func(*Stream) look)
	seen := make(chan look)
	handler := func(s *Stream) {
		for f := range next {
			seen <- f(s)
		}
		s.WriteHead(204, true)
	}
	buffered := func(s *Stream) look {
		p, _ := s.Buffered()
		return look{string(p), s.BodyHere(), s.BodyDone()}
	}
	state := func(s *Stream) look { return look{"", s.BodyHere(), s.BodyDone()} }
	rawOpen(t, Config{Handler: handler}, func(c *raw) {
		next, seen = make(chan func(*Stream) look), make(chan look) // of this bubble
		expect := func(f func(*Stream) look, want look) {
			t.Helper()
			next <- f
			if got := <-seen; got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		}
		c.ask(1, false, post("/", "content-length", "5")...)
		c.fr.WriteData(1, false, []byte("abc"))
		synctest.Wait()
		expect(buffered, look{"abc", false, false})
		c.fr.WriteData(1, true, []byte("de"))
		synctest.Wait()
		expect(state, look{"", true, false})
		expect(buffered, look{"de", true, true})
		expect(buffered, look{"", true, true})
		close(next)
	})
}
