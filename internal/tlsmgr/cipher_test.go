package tlsmgr

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A Raspberry Pi 4 has no AES instructions: there, ChaCha20 is several times
// cheaper, and crypto/tls must choose it. The processor is told to have none by
// GODEBUG, which only a process of its own can be given.
func TestNoAESMeansChaCha20(t *testing.T) {
	const marker = "POSTERN_TEST_CIPHER"
	if os.Getenv(marker) != "" {
		t.Log("suite " + chosenSuite(t))
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ debug, want string }{
		{"cpu.aes=off,cpu.pclmulqdq=off,cpu.pmull=off", "suite TLS_CHACHA20_POLY1305_SHA256"},
	} {
		cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestNoAESMeansChaCha20$", "-test.v")
		cmd.Env = append(os.Environ(), marker+"=1", "GODEBUG="+c.debug)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if !strings.Contains(string(out), c.want) {
			t.Errorf("GODEBUG=%s: want %q in\n%s", c.debug, c.want, out)
		}
	}
}

// chosenSuite is the cipher suite of a TLS 1.3 handshake between two ends of
// this process.
func chosenSuite(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"home.test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	server, client := net.Pipe()
	defer server.Close()
	defer client.Close()
	done := make(chan error, 1)
	go func() { // waited for below
		done <- tls.Server(server, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}).Handshake()
	}()
	c := tls.Client(client, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	suite := tls.CipherSuiteName(c.ConnectionState().CipherSuite)
	_ = server.Close()
	<-done
	return suite
}
