package feeds

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// fetchTimeout bounds one question and its whole answer.
const fetchTimeout = 2 * time.Minute

// newClient returns a client that gives up on servers that do not answer.
func newClient(redirect func(*http.Request, []*http.Request) error) *http.Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return &http.Client{
		CheckRedirect: redirect,
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            dialer.DialContext,
			TLSHandshakeTimeout:    10 * time.Second,
			ResponseHeaderTimeout:  time.Minute,
			ForceAttemptHTTP2:      true,
			IdleConnTimeout:        30 * time.Second,
			MaxIdleConnsPerHost:    1,
			MaxResponseHeaderBytes: 64 << 10,
		},
	}
}

// blame names the host and not the rest of a URL, which may hold a secret.
func blame(u *url.URL, err error) error {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		err = e.Err
	}
	return fmt.Errorf("%s: %w", u.Host, err)
}
