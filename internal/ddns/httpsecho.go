package ddns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// maxEcho is far more than an address and some words around it.
const maxEcho = 4 << 10

// NewHTTPSEcho makes a source from the URL of a page that tells whom it sees:
// an address alone, or JSON with it under ip. It touches no network. The
// system's roots are trusted; SSL_CERT_FILE changes them, as everywhere in Go.
// A proxy from the environment is not used: the address would be the proxy's.
func NewHTTPSEcho(text string) (Source, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
		return Source{}, errors.New("want a URL such as https://api.ipify.org")
	}
	dialer := &net.Dialer{Timeout: sourceTimeout}
	client := &http.Client{
		Timeout: sourceTimeout,
		Transport: &http.Transport{
			// By IPv4: the answer is about the path the question took.
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				return dialer.DialContext(ctx, "tcp4", addr)
			},
			DisableKeepAlives:      true,
			TLSHandshakeTimeout:    sourceTimeout,
			MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return Source{Kind: HTTPSEcho, Name: text, Addr: func(ctx context.Context) (netip.Addr, error) {
		return httpsEcho(ctx, client, text)
	}}, nil
}

func httpsEcho(ctx context.Context, client *http.Client, text string) (netip.Addr, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, text, nil)
	if err != nil {
		return netip.Addr{}, err
	}
	req.Header.Set("User-Agent", "postern")
	req.Header.Set("Accept", "text/plain, application/json")
	res, err := client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return netip.Addr{}, plain(ctx, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return netip.Addr{}, fmt.Errorf("the answer is HTTP %d", res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxEcho+1))
	if err != nil {
		return netip.Addr{}, plain(ctx, err)
	}
	return parseEcho(body)
}

// parseEcho reads an address alone, or JSON with one.
func parseEcho(body []byte) (netip.Addr, error) {
	if len(body) > maxEcho {
		return netip.Addr{}, errors.New("the answer is too long to be an address")
	}
	text := strings.TrimSpace(string(body))
	if a, err := netip.ParseAddr(text); err == nil {
		return a, nil
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return netip.Addr{}, errNoAddr
	}
	for _, k := range []string{"ip", "ip_addr", "ip_address", "address", "query", "origin"} {
		var s string
		if json.Unmarshal(fields[k], &s) != nil {
			continue
		}
		if a, err := netip.ParseAddr(strings.TrimSpace(s)); err == nil {
			return a, nil
		}
	}
	return netip.Addr{}, errNoAddr
}
