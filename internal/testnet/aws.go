package testnet

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// What the fake account is called.
const (
	AWSAccount  = "123456789012"
	AWSRegion   = "ap-northeast-2"
	AWSRole     = "arn:aws:iam::123456789012:role/orders"
	AWSFunction = "arn:aws:lambda:ap-northeast-2:123456789012:function:orders"
)

// AWSKey is an access key of the fake account. Session is set for temporary
// ones, which must be sent with each request.
type AWSKey struct {
	ID, Secret, Session string
	ARN                 string // of the principal it belongs to
}

// AWSFault is how a service of the fake account misbehaves.
type AWSFault string

// The faults. Each but Hang is told in the words of the service it is set
// for.
const (
	AWSWorks      AWSFault = ""
	AWSHangs      AWSFault = "hang"       // takes the request and never answers
	AWSBroken     AWSFault = "500"        // InternalFailure
	AWSThrottled  AWSFault = "throttling" // 400 or 503 with the service's code
	AWSSkewed     AWSFault = "skew"       // says that our clock is wrong
	AWSDenied     AWSFault = "denied"     // AccessDenied
	AWSWrongShape AWSFault = "wrong"      // 200 with a page no API sends
	AWSWrongValue AWSFault = "lie"        // 200, well-formed, and another value than was stored or asked for
)

// AWS is an AWS account in this process, ended at the end of the test: STS,
// SSM, S3 and Route 53 behind one HTTPS URL, and the account's token issuer
// behind another one. It checks Signature Version 4 with code of its own, as
// strictly as the documentation allows, and IAM policies when told to. Its
// methods may be called from several goroutines.
type AWS struct {
	URL    string // base of every service: what AWS_ENDPOINT_URL or a config's endpoint is set to
	Issuer string // the iss of its tokens; serves /.well-known/openid-configuration and jwks.json

	Pool     *x509.CertPool // verifies both
	RootPEM  []byte
	RootFile string // the same as a file
	Client   *http.Client

	Lambda    AWSKey // temporary, of the role AWSRole, as a function has it
	Publisher AWSKey // long-lived, of a user

	stop chan struct{} // closed at the end: what hangs gives up

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced after each request
	faults   map[string]AWSFault
	skew     time.Duration
	keys     map[string]AWSKey
	policies map[string]policy // by key id; without one everything is allowed
	issuer   issuerKeys
	calls    map[string]int
	refused  []string
	params   map[string]string
	objects  map[string][]byte
	records  map[string][]string
}

// NewAWS starts an account.
func NewAWS(t testing.TB) *AWS {
	t.Helper()
	a := &AWS{
		Lambda: AWSKey{"ASIAQWERTYUIOPASDFGH", "lambda/secret+key0123456789012345678901", "session//token+with=signs==",
			"arn:aws:sts::" + AWSAccount + ":assumed-role/orders/orders"},
		Publisher: AWSKey{"AKIAZXCVBNMASDFGHJKL", "publisher/secret+key01234567890123456789", "",
			"arn:aws:iam::" + AWSAccount + ":user/postern"},
		stop: make(chan struct{}), changed: make(chan struct{}),
		faults: map[string]AWSFault{}, calls: map[string]int{}, policies: map[string]policy{},
		params: map[string]string{}, objects: map[string][]byte{}, records: map[string][]string{},
	}
	a.keys = map[string]AWSKey{a.Lambda.ID: a.Lambda, a.Publisher.ID: a.Publisher}
	cert := a.certificate(t)
	a.newIssuerKeys("RSA_0", "EC384_0")
	a.URL = a.serve(t, cert, a.service)
	a.Issuer = a.serve(t, cert, a.issue)
	a.Client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.Pool}}}
	t.Cleanup(a.Client.CloseIdleConnections)
	return a
}

func (a *AWS) serve(t testing.TB, cert tls.Certificate, h http.HandlerFunc) string {
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(func() {
		a.mu.Lock()
		select {
		case <-a.stop:
		default:
			close(a.stop)
		}
		a.mu.Unlock()
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}

// certificate makes a root and a leaf for the names a client may use.
func (a *AWS) certificate(t testing.TB) tls.Certificate {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fake AWS root"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, root, root, &rootKey.PublicKey, rootKey)
	must(err)
	a.RootPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	a.RootFile = filepath.Join(t.TempDir(), "aws-root.pem")
	must(os.WriteFile(a.RootFile, a.RootPEM, 0o600))
	parsed, err := x509.ParseCertificate(der)
	must(err)
	a.Pool = x509.NewCertPool()
	a.Pool.AddCert(parsed)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "fake AWS"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		DNSNames: []string{"localhost", "*." + AWSRegion + ".amazonaws.com", "route53.amazonaws.com"},
		IPAddresses: []net.IP{
			net.IPv4(127, 0, 0, 1), net.IPv6loopback,
		},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err = x509.CreateCertificate(rand.Reader, leaf, parsed, &key.PublicKey, rootKey)
	must(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// SetFault makes a service ("sts", "ssm", "s3", "route53" or "issuer")
// misbehave, or, with AWSWorks, behave.
func (a *AWS) SetFault(service string, f AWSFault) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.faults[service] = f
}

// SetSkew puts the account's clock ahead of ours.
func (a *AWS) SetSkew(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.skew = d
}

// Calls is how often an action was asked for with a good signature, such as
// "ssm:PutParameter"; "issuer" counts what the issuer was asked; "refused"
// what was refused for its signature or its policy.
func (a *AWS) Calls(action string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls[action]
}

// Refused are the reasons of what was refused, for a test that fails.
func (a *AWS) Refused() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.refused...)
}

// Parameter is the value of an SSM parameter, "" without one.
func (a *AWS) Parameter(name string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.params[name]
}

// SetParameter stores a parameter as if somebody had put it.
func (a *AWS) SetParameter(name, value string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.params[name] = value
}

// Object is an S3 object, nil without one.
func (a *AWS) Object(bucket, key string) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return bytes.Clone(a.objects[bucket+"/"+key])
}

// SetObject stores an object as if somebody had put it.
func (a *AWS) SetObject(bucket, key string, body []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.objects[bucket+"/"+key] = bytes.Clone(body)
}

// Record is a record set of Route 53, nil without one.
func (a *AWS) Record(zone, name, typ string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.records[zone+" "+strings.TrimSuffix(name, ".")+" "+typ]...)
}

// Await waits until done, which is asked again after each request to the
// account. It fails the test after a minute.
func (a *AWS) Await(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	for {
		a.mu.Lock()
		changed := a.changed
		a.mu.Unlock()
		if done() {
			return
		}
		select {
		case <-changed:
		case <-deadline.C:
			t.Fatalf("fake AWS: waited a minute for %s; refused so far: %q", what, a.Refused())
		}
	}
}

// now is the account's clock.
func (a *AWS) now() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Now().Add(a.skew)
}

func (a *AWS) count(action string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls[action]++
}

// tell wakes those who wait in Await.
func (a *AWS) tell() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *AWS) fault(service string) AWSFault {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.faults[service]
}

// hang holds a request until the client leaves or the test ends.
func (a *AWS) hang(r *http.Request) {
	a.tell()
	select {
	case <-r.Context().Done():
	case <-a.stop:
	}
}

// service is every service of the account. Which one is meant is told by the
// scope of the credential, as at AWS, where the host must agree with it.
func (a *AWS) service(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	defer a.tell()
	w.Header().Set("Date", a.now().UTC().Format(http.TimeFormat))
	who, service, wrong := a.verify(r, body)
	reply := answerer{w: w, r: r, service: service}
	switch f := a.fault(service); {
	case f == AWSHangs:
		a.count(service + ":hung")
		a.hang(r)
	case f == AWSBroken || f == AWSThrottled || f == AWSSkewed || f == AWSDenied:
		a.count(service + ":" + string(f))
		reply.fault(f)
	case wrong != nil:
		a.refuse(wrong.Error())
		reply.fail(http.StatusForbidden, wrong.code, wrong.text)
	case f == AWSWrongShape:
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html><body>Welcome to your new router</body></html>")
	default:
		a.act(reply, who, body, f == AWSWrongValue)
	}
}

func (a *AWS) act(reply answerer, who AWSKey, body []byte, lie bool) {
	switch reply.service {
	case "sts":
		a.sts(reply, who, body)
	case "ssm":
		a.ssm(reply, who, body, lie)
	case "s3":
		a.s3(reply, who, body, lie)
	case "route53":
		a.route53(reply, who, body)
	default:
		reply.fail(http.StatusForbidden, "SignatureDoesNotMatch", "Credential should be scoped to correct service: "+reply.service)
	}
}

func (a *AWS) refuse(why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls["refused"]++
	if len(a.refused) < 100 {
		a.refused = append(a.refused, why)
	}
}
