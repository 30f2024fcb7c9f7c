package app

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/internal/config"
	"postern/internal/ddns"
	"postern/internal/proxy"
	"postern/internal/publish"
	"postern/internal/testnet"
)

// The address, the names and the certificate reach the account, and a reload
// adds a target without writing to those that stay.
func TestPublishesTheEndpoint(t *testing.T) {
	aws := testnet.NewAWS(t)
	data := t.TempDir()
	key := filepath.Join(t.TempDir(), "aws-key")
	if err := os.WriteFile(key, []byte("[default]\naws_access_key_id="+aws.Publisher.ID+"\naws_secret_access_key="+aws.Publisher.Secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	one := fmt.Sprintf("public_address: {sources: []}\npublish:\n  - ssm: {region: %s, parameter: /postern/endpoint, key_file: %q, endpoint: %q, root: %q}\n", testnet.AWSRegion, key, aws.URL, aws.RootFile)
	two := fmt.Sprintf("  - {s3: {region: %s, bucket: my-bucket, key: e.json, key_file: %q, endpoint: %q, root: %q}, port: 8443}\n", testnet.AWSRegion, key, aws.URL, aws.RootFile)
	sites := "sites:\n  - {hosts: [home.test, \"*.home.test\", 127.0.0.1], upstream: \"127.0.0.1:1\"}\n"
	p := start(t, localFile(data, one+sites))
	p.addressChanged(ddns.Addresses{}, ddns.Addresses{V4: netip.MustParseAddr("203.0.113.7"), V6: netip.Addr{}})
	until(t, "the certificate", func() bool { return p.certs.Leaf("home.test") != nil })
	p.publisher.Changed() // it would look by itself within half a minute
	var doc publish.Document
	aws.Await(t, "the certificate in the parameter", func() bool {
		return json.Unmarshal([]byte(aws.Parameter("/postern/endpoint")), &doc) == nil && doc.Fingerprint != ""
	})
	if doc.IPv4 != "203.0.113.7" || fmt.Sprint(doc.Names) != "[home.test]" || !strings.HasSuffix(p.Addrs("https")[0], fmt.Sprint(":", doc.Port)) ||
		doc.Fingerprint != publish.Fingerprint(p.certs.Leaf("home.test")) {
		t.Errorf("published %+v", doc)
	}
	before := aws.Calls("ssm:PutParameter")
	p.write(localFile(data, one+two+sites))
	if err := p.Reload(); err != nil {
		t.Fatal(err)
	}
	aws.Await(t, "the object", func() bool { return aws.Object("my-bucket", "e.json") != nil })
	if err := json.Unmarshal(aws.Object("my-bucket", "e.json"), &doc); err != nil || doc.Port != 8443 {
		t.Errorf("%v %+v", err, doc)
	}
	if n := aws.Calls("ssm:PutParameter"); n != before {
		t.Errorf("a reload wrote the parameter again: %d, then %d writes", before, n)
	}
	p.addressChanged(ddns.Addresses{}, ddns.Addresses{V4: netip.MustParseAddr("203.0.113.8"), V6: netip.MustParseAddr("2001:db8::8")})
	aws.Await(t, "the new address", func() bool {
		return strings.Contains(aws.Parameter("/postern/endpoint"), "203.0.113.8") && strings.Contains(string(aws.Object("my-bucket", "e.json")), "2001:db8::8")
	})
	if log := p.log.String(); strings.Contains(log, aws.Publisher.Secret) {
		t.Error("the log holds the secret")
	}
	p.write(localFile(data, strings.Replace(one, key, key+".none", 1)+sites))
	if err := p.Reload(); err == nil || !strings.Contains(err.Error(), "key file") {
		t.Errorf("a reload with a key file that is not there: %v", err)
	}
}

// An account that hangs holds up neither the start nor a request.
func TestPublishingNeverBlocks(t *testing.T) {
	aws := testnet.NewAWS(t)
	aws.SetFault("ssm", testnet.AWSHangs)
	data := t.TempDir()
	p := start(t, localFile(data, fmt.Sprintf(`public_address: {sources: []}
publish: [{ssm: {region: %s, parameter: /p, access_key: %s, secret: %q, endpoint: %q, root: %q}}]
sites:
  - {hosts: [home.test], http: serve, upstream: %q}
`, testnet.AWSRegion, aws.Publisher.ID, aws.Publisher.Secret, aws.URL, aws.RootFile, backend(t, "here"))))
	p.addressChanged(ddns.Addresses{}, ddns.Addresses{V4: netip.MustParseAddr("203.0.113.7"), V6: netip.Addr{}})
	aws.Await(t, "the request that hangs", func() bool { return aws.Calls("ssm:hung") > 0 })
	res, err := p.client(localRoots(t, data)).Get("http://home.test/")
	if got := body(t, res, err); got != "200 here" {
		t.Error(got)
	}
	p.end() // and stopping does not wait for it
}

// doorAt is a listener that is not there.
type doorAt struct{ net.TCPAddr }

func (d *doorAt) Addr() net.Addr { return &d.TCPAddr }
func (d *doorAt) Close() error   { return nil }

// What is published is the port that the router was asked for, not the one it
// leads to; behind no router it is our own.
func TestPublishedPort(t *testing.T) {
	for _, tt := range []struct {
		mapping, addr string
		want          int
	}{
		{"off", "192.0.2.7:8443", 8443},
		{"auto", "192.0.2.7:8443", 443},
		{"auto", "127.0.0.1:8443", 8443}, // no router is asked for this one
	} {
		at := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(tt.addr))
		key := doorKey{proxy.KindHTTPS, tt.addr}
		a := &App{cfg: &config.Config{PortMapping: tt.mapping}, doors: map[doorKey]*door{key: {key, &doorAt{*at}}}}
		if got := a.publicPortLocked(); got != tt.want {
			t.Errorf("%s, %s: %d, want %d", tt.mapping, tt.addr, got, tt.want)
		}
	}
}
