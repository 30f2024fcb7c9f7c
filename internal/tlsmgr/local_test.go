package tlsmgr

import (
	"os"
	"slices"
	"testing"
)

func TestLocalIssuer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	book := &logBook{}
	m := mustNew(t, Config{Dir: dir, Issuer: "local", Log: book.logger(),
		Names: []string{"LocalHost", "home.example.", "*.apps.example", "127.0.0.1", "::1"}})
	d := openDoor(t, m.TLSConfig())
	run(t, m)
	roots := localRoots(t, dir)
	for _, tc := range []struct{ sni, verify string }{
		{"localhost", "localhost"},
		{"HOME.example", "home.example"},
		{"x.apps.example", "x.apps.example"},
	} {
		leaf := served(t, d, tc.sni, roots)
		if err := leaf.VerifyHostname(tc.verify); err != nil {
			t.Error(err)
		}
	}
	// Go's client sends no server name for an address and checks the IP SAN.
	served(t, d, "127.0.0.1", roots)

	if fi, err := os.Stat(dir + "/local-ca/root-key.pem"); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("root key: %v %v, want mode 0600", fi.Mode(), err)
	}
	eventually(t, "every name", func() bool { // nobody asked for ::1 above
		return !slices.ContainsFunc(m.Status(), func(s CertStatus) bool { return s.State != StateOK })
	})
	var states []string
	for _, s := range m.Status() {
		states = append(states, s.Name+" "+s.Source+" "+s.State+" "+s.KeyType)
	}
	want := []string{
		"*.apps.example local ok ECDSA P-256", "127.0.0.1 local ok ECDSA P-256", "::1 local ok ECDSA P-256",
		"home.example local ok ECDSA P-256", "localhost local ok ECDSA P-256",
	}
	if !slices.Equal(states, want) {
		t.Errorf("status\n got %q\nwant %q", states, want)
	}
	if t.Failed() {
		t.Log(book)
	}
}

// The demo's way: a host that the user lists is obtained when it is first
// asked for, whatever it looks like.
func TestListedHostOnDemand(t *testing.T) {
	t.Parallel()
	cfg := Config{Dir: t.TempDir(), Issuer: "local", OnDemand: &OnDemand{Allow: []string{"localhost", "127.0.0.1"}}}
	m := mustNew(t, cfg)
	d := openDoor(t, m.TLSConfig())
	for _, name := range []string{"localhost", "127.0.0.1"} {
		if _, err := d.dial(name, localRoots(t, cfg.Dir)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := d.dial("other", nil); err == nil {
		t.Error("a host that is not listed was served")
	}
}
