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

// maxTree bounds what Fetch reads: 4 MiB hold some ten thousand nodes.
const maxTree = 4 << 20

// Fetch asks the server at addr, in the form that Listen takes, for its health
// tree. An address without a host, or with the unspecified one, is asked on
// loopback. token may be empty. The tree comes resolved.
func Fetch(ctx context.Context, addr, token string) (Node, error) {
	tree, err := fetch(ctx, addr, token)
	if err != nil {
		return Node{}, fmt.Errorf("health from %s: %w", addr, err)
	}
	return tree, nil
}

func fetch(ctx context.Context, addr, token string) (Node, error) {
	network, target, host := "tcp", dialable(addr), dialable(addr)
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, target, host = "unix", path, "localhost"
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
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/health?format=json", nil)
	if err != nil {
		return Node{}, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return Node{}, errors.New("nobody answers; is postern running, with this admin.listen?")
	case err != nil:
		return Node{}, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusUnauthorized && token == "":
		return Node{}, errors.New("a token is wanted; set admin.token")
	case resp.StatusCode == http.StatusUnauthorized:
		return Node{}, errors.New("the token is refused; is admin.token that of the running process?")
	case resp.StatusCode != http.StatusOK:
		return Node{}, fmt.Errorf("status %d, want 200; is that postern?", resp.StatusCode)
	}
	var tree Node
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxTree)).Decode(&tree); err != nil {
		return Node{}, fmt.Errorf("read the tree: %w", err)
	}
	return tree.Resolve(), nil
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
