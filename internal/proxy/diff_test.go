package proxy

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"postern/internal/guard"
	"postern/internal/http1"
)

// story is what one client sends.
type story struct {
	name  string
	input []byte
}

// stories are what the wire scripts' clients send, the cases of internal/http1,
// and some for what the two have not: several requests in a row.
func stories(t testing.TB, some bool) (all []story) {
	t.Helper()
	files, err := filepath.Glob("testdata/wire/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range parseScripts(t, file, string(src)) {
			var input []byte
			for _, step := range s.steps {
				if step.words[0] == ">" && step.words[1] == "client" {
					input = append(input, unescape(t, expandFiller(step.data))...)
				}
			}
			all = append(all, story{filepath.Base(file) + "/" + s.name, input})
		}
	}
	cases, err := filepath.Glob("../http1/testdata/wire/*.txt")
	if err != nil || len(cases) < 80 {
		t.Fatalf("%d cases of internal/http1, %v", len(cases), err)
	}
	for _, file := range cases {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, body, _ := strings.Cut(string(src), "\n\n")
		var input []byte
		for body = strings.ReplaceAll(body, "\n", ""); body != ""; {
			c, rest := rune('"'), body[1:] // needs no escape here
			if body[0] != '"' {
				if c, _, rest, err = strconv.UnquoteChar(body, '"'); err != nil {
					t.Fatalf("%s: %v", file, err)
				}
			}
			input, body = append(input, byte(c)), rest
		}
		all = append(all, story{filepath.Base(file), input})
	}
	return append(all, rows(some)...)
}

// rows are several requests one behind the other: every pair, or only some, and
// one more.
func rows(some bool) (all []story) {
	one := []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /y HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
		"POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nX-T: 1\r\n\r\n",
		"GET /chunked HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n",
		"GET /204 HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET /304 HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"x\"\r\n\r\n",
		"GET /103 HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET /500 HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET /close HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
		"GET /chunked HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET http://a/abs?q HTTP/1.1\r\nHost: a\r\n\r\n",
		"PUT /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
		"DELETE /d HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nX_Under: 1\r\nX-Real-Ip: 6.6.6.6\r\n\r\n",
	}
	for i, a := range one {
		for j, b := range one {
			if some && j != (i+1)%len(one) {
				continue
			}
			all = append(all, story{"row " + strconv.Itoa(i) + " " + strconv.Itoa(j), []byte(a + b + one[2])})
		}
	}
	return all
}

// difference is a way in which our engine and the reference are known to
// differ, or ours with itself when it gets the bytes in other pieces. It is
// taken out of an outcome by fold.
type difference struct {
	reason string
	pieces bool // the pieces make it, too
	fold   func(input string, want expectation, o *outcome)
}

var differences = []difference{
	{"a body that is there already needs no 100 Continue (RFC 9110 section 10.1.1); net/http says it all the same",
		true, func(_ string, _ expectation, o *outcome) {
			o.answers = slices.DeleteFunc(o.answers, func(a string) bool { return strings.HasPrefix(a, "100 ") })
		}},
	{"a request that is not complete when the client leaves, or breaks off in its body, is answered 400, 502 or not at all",
		false, func(_ string, want expectation, o *outcome) {
			if want.cut {
				o.answers = o.answers[:min(len(o.answers), len(want.methods))]
			}
		}},
	{"net/http takes the host from a target in absolute form, we from Host; they are the same but for case (RFC 9112 section 3.2.2)",
		false, func(input string, _ expectation, o *outcome) {
			if strings.Contains(input, "://") {
				for i, got := range o.backend {
					o.backend[i] = strings.ToLower(got)
				}
			}
		}},
	{"a chunk size of 16 digits is refused, if only for its zeros",
		false, func(input string, _ expectation, o *outcome) {
			if regexp.MustCompile(`(?i)[0-9a-f]{16}`).MatchString(input) {
				*o = outcome{}
			}
		}},
	{"what is no HTTP from its first byte on is hung up on if enough of it comes at once to be recognised, and answered 400 otherwise",
		true, func(input string, want expectation, o *outcome) {
			if len(want.methods) == 0 && want.phase == http1.Broken && guard.ClassifyFirstBytes([]byte(input)) != guard.HTTP {
				o.answers = nil
			}
		}},
	{"a connection whose request was refused serves on if the rest of its body is here already, and else ends (RFC 9112 section 9.3)",
		true, func(_ string, want expectation, o *outcome) {
			served := 0
			for i, a := range o.answers {
				if !strings.HasSuffix(a, " problem") {
					served++
				} else if i < len(want.bodies) && want.bodies[i] {
					o.answers, o.end, o.backend = o.answers[:i+1], "", o.backend[:min(len(o.backend), served)]
					return
				}
			}
		}},
	{"an empty line before a request is taken (RFC 9112 section 2.2); net/http does so only behind a POST",
		false, func(_ string, want expectation, o *outcome) {
			if want.emptyLine {
				*o = outcome{}
			}
		}},
	{"net/http drops trailers that were not announced; RFC 9110 section 6.5.1 lets them pass",
		false, func(input string, _ expectation, o *outcome) {
			if !strings.Contains(strings.ToLower(input), "trailer:") {
				for i, got := range o.backend {
					o.backend[i], _, _ = strings.Cut(got, " trailer ")
				}
			}
		}},
}

// unexplained reports whether the outcomes differ in no known way; pieces says
// that they are of the same engine.
func unexplained(input []byte, own, ref outcome, pieces bool) bool {
	want := expect(input)
	for _, o := range []*outcome{&own, &ref} {
		o.answers, o.backend = slices.Clone(o.answers), slices.Clone(o.backend)
		for _, d := range differences {
			if d.pieces || !pieces {
				d.fold(string(input), want, o)
			}
		}
	}
	return own.String() != ref.String()
}

// The same bytes through our engine and through net/http.
func TestDifferential(t *testing.T) {
	own, ref := newLane(t, engines()[0]), newLane(t, engines()[1])
	for _, s := range stories(t, false) {
		a, b := own.run(t, [][]byte{s.input}), ref.run(t, [][]byte{s.input})
		if unexplained(s.input, a, b, false) {
			t.Errorf("%s: %q\nown:\n%v\nnet/http:\n%v", s.name, s.input, a, b)
		}
	}
}

// How a client's bytes are cut changes nothing, wherever they are cut.
func TestEverySplit(t *testing.T) {
	all, step := stories(t, true), 1
	if underRace {
		step = 7
	}
	var workers sync.WaitGroup
	work := make(chan story)
	for range 2 {
		l := newLane(t, engines()[0])
		workers.Go(func() { // ends with work; waited for below
			for s := range work {
				whole := l.run(t, [][]byte{s.input})
				for i := 1; i < min(len(s.input), 400); i += step {
					cut := l.run(t, [][]byte{s.input[:i], s.input[i:]})
					if unexplained(s.input, cut, whole, true) {
						t.Errorf("%s: %q + %q\n%v\nwhole:\n%v", s.name, s.input[:i], s.input[i:], cut, whole)
						break
					}
				}
			}
		})
	}
	for _, s := range all {
		work <- s
	}
	close(work)
	workers.Wait()
}

// FuzzDifferential: what it is told to send reaches both engines in pieces,
// and neither the engine nor the pieces make a difference.
func FuzzDifferential(f *testing.F) {
	for _, s := range stories(f, true) {
		f.Add(s.input, uint64(len(s.input)))
	}
	own, ref := newLane(f, engines()[0]), newLane(f, engines()[1])
	f.Fuzz(func(t *testing.T, input []byte, seed uint64) {
		if len(input) > 8<<10 {
			return
		}
		a, b := own.run(t, [][]byte{input}), ref.run(t, [][]byte{input})
		if unexplained(input, a, b, false) {
			t.Fatalf("%q\nown:\n%v\nnet/http:\n%v", input, a, b)
		}
		if c := own.run(t, pieces(input, seed)); unexplained(input, c, a, true) {
			t.Fatalf("%q in pieces\n%v\nwhole:\n%v", input, c, a)
		}
	})
}

// pieces cuts input at up to eight places that seed tells.
func pieces(input []byte, seed uint64) (all [][]byte) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], seed)
	for _, n := range b {
		n := min(int(n), len(input))
		all, input = append(all, input[:n]), input[n:]
	}
	return append(all, input)
}
