package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"postern/internal/caller"
)

const shopSecret = "a secret of thirty-two characters"

func shop() caller.Caller {
	return caller.Caller{Name: "shop", Signature: &caller.SignatureKey{KeyID: "shop-1", Secret: shopSecret}}
}

// signedRequest is signed by AWS's own signer; told says whether the hash of
// the body is in a field, as smithy does and botocore does not.
func signedRequest(t testing.TB, url, signed, sent string, told bool) *http.Request {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(sent))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(signed))
	hash := hex.EncodeToString(sum[:])
	if told {
		req.Header.Set("X-Amz-Content-Sha256", hash)
	}
	req.Header.Set("X-Postern-Nonce", rand.Text())
	length := req.ContentLength
	req.ContentLength = 0 // its signer signs the length, and a proxy may change how it is told
	err = v4.NewSigner().SignHTTP(context.Background(), aws.Credentials{AccessKeyID: "shop-1", SecretAccessKey: shopSecret}, req, hash, "postern", "home", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = length
	return req
}

// TestSignedBodies: a body reaches the backend only if it is the one that was
// signed, however it comes and whatever the backend speaks.
func TestSignedBodies(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, "%s %s %x %v", r.Header.Get("X-Postern-Caller"), r.Header.Get("X-Postern-Caller-Method"), sha256.Sum256(body), r.Header["Authorization"])
	}
	for _, scheme := range []string{"http://", "h2c://"} {
		target := backend(t, echo)
		if scheme == "h2c://" {
			target = h2cBackend(t, echo)
		}
		site := proxyTo(t, target)
		site.callers = map[string][]string{"/*": {"shop"}}
		r := start(t, options{book: callerBook(t, shop()), sites: []testSite{site}, limits: quick(patience)})
		for _, h2 := range []bool{false, true} {
			c := r.httpClient(h2)
			for _, size := range []int{0, 10, 70_000, 400_000, caller.MaxBody} {
				body := strings.Repeat("x", size)
				want := fmt.Sprintf("shop signature %x []", sha256.Sum256([]byte(body)))
				for _, told := range []bool{true, false} {
					for _, chunked := range []bool{false, true} {
						name := fmt.Sprintf("%s h2 %v, %d bytes, told %v, chunked %v", scheme, h2, size, told, chunked)
						req := signedRequest(t, "https://a.test/orders?x=1", body, body, told)
						if chunked {
							req.ContentLength = -1
							req.Body = io.NopCloser(strings.NewReader(body))
						}
						if status, got := statusOf(t, c, req); status != 200 || got != want {
							t.Errorf("%s: %d %.200s, want %s", name, status, got, want)
						}
						req = signedRequest(t, "https://a.test/orders?x=1", body, body+"!", told)
						if status, got := statusOf(t, c, req); status != 401 && (size < caller.MaxBody || status != 413 && status != 0) {
							t.Errorf("%s, changed: %d %.200s", name, status, got)
						}
					}
				}
			}
			large := bytes.Repeat([]byte("x"), caller.MaxBody+1)
			req := signedRequest(t, "https://a.test/", string(large), string(large), true)
			// A client that is slow to listen meets the end of the connection.
			if status, got := statusOf(t, c, req); (status != 401 || !strings.Contains(got, "body_too_large")) && (h2 || status != 0) {
				t.Errorf("h2 %v, too large: %d %.200s", h2, status, got)
			}
			req = signedRequest(t, "https://a.test/", string(large), string(large), true)
			req.ContentLength, req.Body = -1, io.NopCloser(bytes.NewReader(large))
			if status, got := statusOf(t, c, req); status != 413 && status != 0 {
				t.Errorf("h2 %v, too large in chunks: %d %.200s", h2, status, got)
			}
		}
		r.until("no bodies are counted as held", func() bool { return r.srv.signed.Load() == 0 })
	}
}

// statusOf returns the status, 0 when the connection was cut, and the body.
func statusOf(t testing.TB, c *http.Client, req *http.Request) (int, string) {
	t.Helper()
	res, err := c.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// TestSignedExpect asks for a body that the client sends only when asked.
func TestSignedExpect(t *testing.T) {
	target := backend(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	site := proxyTo(t, target)
	site.callers = map[string][]string{"/*": {"shop"}}
	r := start(t, options{book: callerBook(t, shop()), sites: []testSite{site}, limits: quick(patience)})
	for _, h2 := range []bool{false, true} {
		req := signedRequest(t, "https://a.test/", "the body", "the body", true)
		req.Header.Set("Expect", "100-continue")
		if status, got := statusOf(t, r.httpClient(h2), req); status != 200 || got != "the body" {
			t.Errorf("h2 %v: %d %q", h2, status, got)
		}
	}
}
