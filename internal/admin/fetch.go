package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
)

// maxAnswer bounds what is read: 4 MiB hold some ten thousand nodes.
const maxAnswer = 4 << 20

// ErrNobody is in the errors of Fetch and Call when nothing listens.
var ErrNobody = errors.New("nobody answers; is postern running, with this admin.listen?")

// Fetch asks the server at addr, in the form that Listen takes, for its health
// tree. An address without a host, or with the unspecified one, is asked on
// loopback. token may be empty. The tree comes resolved.
func Fetch(ctx context.Context, addr, token string) (Node, error) {
	var tree Node
	if err := ask(ctx, addr, token, http.MethodGet, "/health?format=json", "the tree", &tree); err != nil {
		return Node{}, fmt.Errorf("health from %s: %w", addr, err)
	}
	return tree.Resolve(), nil
}

// Call makes a request to the private API of the server at addr, which Fetch
// describes, and decodes the answer into out. target is a path with a query,
// which the caller has escaped. A request that the server refuses is a
// *Problem.
func Call(ctx context.Context, addr, token, method, target string, out any) error {
	if err := ask(ctx, addr, token, method, target, "the answer", out); err != nil {
		return fmt.Errorf("admin at %s: %w", addr, err)
	}
	return nil
}

func ask(ctx context.Context, addr, token, method, path, what string, out any) error {
	network, target, host := "tcp", dialable(addr), dialable(addr)
	if socket, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, target, host = "unix", socket, "localhost"
	}
	client := http.Client{
		Transport: &http.Transport{
			Proxy:             nil, // the answer is on this machine
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, target)
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+host+path, nil)
	if err != nil {
		return err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if method != http.MethodGet {
		req.Header.Set(ChangeHeader, "1")
	}
	resp, err := client.Do(req)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return ErrNobody
	case err != nil:
		return err
	}
	defer resp.Body.Close()
	body := io.LimitReader(resp.Body, maxAnswer)
	switch {
	case resp.StatusCode == http.StatusUnauthorized && token == "":
		return errors.New("a token is wanted; set admin.token")
	case resp.StatusCode == http.StatusUnauthorized:
		return errors.New("the token is refused; is admin.token that of the running process?")
	case resp.StatusCode != http.StatusOK:
		p := &Problem{}
		if resp.Header.Get("Content-Type") == "application/problem+json" && json.NewDecoder(body).Decode(p) == nil && p.Detail != "" {
			return p
		}
		return fmt.Errorf("status %d, want 200; is that postern?", resp.StatusCode)
	}
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return fmt.Errorf("read %s: %w", what, err)
	}
	return nil
}

// dialable returns addr with the loopback address in place of none or of the
// unspecified one, which can be listened on but names no machine.
func dialable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	switch host {
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}
