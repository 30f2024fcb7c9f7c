package publish

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// SSM is a parameter of AWS Systems Manager
// (https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_PutParameter.html).
type SSM struct {
	Region    string
	Parameter string // "/postern/endpoint"
	Key       Key
	Endpoint  string // base URL; "": AWS's own
	RootFile  string // PEM, to trust for it; "": the system's
}

// S3 is an object
// (https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html).
type S3 struct {
	Region   string
	Bucket   string
	Object   string // its key
	Key      Key
	Endpoint string // base URL, with the bucket in the path; "": AWS's own
	RootFile string
}

// Route53 is the A and the AAAA record of a name. The rest of the document has
// no place there
// (https://docs.aws.amazon.com/Route53/latest/APIReference/API_ChangeResourceRecordSets.html).
type Route53 struct {
	Zone     string // id of the hosted zone
	Name     string
	TTL      time.Duration
	Key      Key
	Endpoint string
	RootFile string
}

// Webhook is any HTTPS server that takes the document by POST. See Sign for
// how it knows that the document is ours.
type Webhook struct {
	URL      string
	Secret   string // "": not signed
	RootFile string
}

// open returns what a target is called and how to push to it.
func (t Target) open() (string, func(context.Context, Document) error, error) {
	switch {
	case t.SSM != nil:
		return t.SSM.open()
	case t.S3 != nil:
		return t.S3.open()
	case t.Route53 != nil:
		return t.Route53.open()
	case t.Webhook != nil:
		return t.Webhook.open()
	}
	return "", nil, errors.New("publish: a target is none of ssm, s3, route53 and webhook")
}

func (s SSM) open() (string, func(context.Context, Document) error, error) {
	name := "ssm " + s.Parameter
	a, err := newAccount(name, "ssm", s.Region, "ssm."+s.Region+".amazonaws.com", s.Endpoint, s.Key, s.RootFile)
	if err != nil {
		return "", nil, err
	}
	return name, func(ctx context.Context, d Document) error {
		value, err := d.encode()
		if err != nil {
			return err
		}
		body, err := json.Marshal(map[string]any{"Name": s.Parameter, "Value": string(value), "Type": "String", "Overwrite": true})
		if err != nil {
			return err
		}
		return a.call(ctx, request{method: http.MethodPost, path: "/", body: body,
			header: map[string]string{"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonSSM.PutParameter"}})
	}, nil
}

func (s S3) open() (string, func(context.Context, Document) error, error) {
	name := "s3 " + s.Bucket + "/" + s.Object
	host, path := s.Bucket+".s3."+s.Region+".amazonaws.com", "/"+escapePath(s.Object)
	if s.Endpoint != "" || strings.Contains(s.Bucket, ".") { // a dot does not fit under Amazon's wildcard certificate
		host, path = "s3."+s.Region+".amazonaws.com", "/"+s.Bucket+path
	}
	a, err := newAccount(name, "s3", s.Region, host, s.Endpoint, s.Key, s.RootFile)
	if err != nil {
		return "", nil, err
	}
	return name, func(ctx context.Context, d Document) error {
		body, err := d.encode()
		if err != nil {
			return err
		}
		return a.call(ctx, request{method: http.MethodPut, path: path, body: body,
			header: map[string]string{"Content-Type": "application/json", "Cache-Control": "no-cache"}})
	}, nil
}

// escapePath encodes all but the unreserved characters and the slash, as S3
// wants it in a signature.
func escapePath(s string) string {
	s = strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
	return strings.ReplaceAll(s, "%2F", "/")
}

// recordChange is one UPSERT.
type recordChange struct {
	Action string `xml:"Action"`
	Set    struct {
		Name  string `xml:"Name"`
		Type  string `xml:"Type"`
		TTL   int    `xml:"TTL"`
		Value string `xml:"ResourceRecords>ResourceRecord>Value"`
	} `xml:"ResourceRecordSet"`
}

type recordBatch struct {
	XMLName xml.Name       `xml:"https://route53.amazonaws.com/doc/2013-04-01/ ChangeResourceRecordSetsRequest"`
	Changes []recordChange `xml:"ChangeBatch>Changes>Change"`
}

func (s Route53) open() (string, func(context.Context, Document) error, error) {
	name := "route53 " + s.Name
	// Route 53 is one for the world; its signatures say us-east-1.
	a, err := newAccount(name, "route53", "us-east-1", "route53.amazonaws.com", s.Endpoint, s.Key, s.RootFile)
	if err != nil {
		return "", nil, err
	}
	path := "/2013-04-01/hostedzone/" + url.PathEscape(strings.TrimPrefix(s.Zone, "/hostedzone/")) + "/rrset/"
	return name, func(ctx context.Context, d Document) error {
		var batch recordBatch
		for _, r := range []struct{ typ, value string }{{"A", d.IPv4}, {"AAAA", d.IPv6}} {
			if r.value == "" {
				continue
			}
			c := recordChange{Action: "UPSERT"}
			c.Set.Name, c.Set.Type, c.Set.TTL, c.Set.Value = strings.TrimSuffix(s.Name, ".")+".", r.typ, int(s.TTL/time.Second), r.value
			batch.Changes = append(batch.Changes, c)
		}
		body, err := xml.Marshal(batch)
		if err != nil {
			return err
		}
		return a.call(ctx, request{method: http.MethodPost, path: path, body: append([]byte(xml.Header), body...),
			header: map[string]string{"Content-Type": "text/xml"}})
	}, nil
}

func (s Webhook) open() (string, func(context.Context, Document) error, error) {
	u, err := url.Parse(s.URL)
	if err != nil || u.Host == "" {
		return "", nil, errors.New("publish to a webhook: its URL is none, want one such as https://example.org/endpoint")
	}
	name := "webhook " + u.Host
	client, err := newClient(s.RootFile)
	if err != nil {
		return "", nil, fmt.Errorf("publish to %s: %w", name, err)
	}
	return name, func(ctx context.Context, d Document) error {
		body, err := d.encode()
		if err != nil {
			return err
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(body))
		if err != nil {
			return &Error{Target: name, Kind: ErrRejected, Means: "its URL is none; correct it"}
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("User-Agent", "postern")
		if s.Secret != "" {
			at := time.Now()
			r.Header.Set("X-Postern-Timestamp", strconv.FormatInt(at.Unix(), 10))
			r.Header.Set("X-Postern-Signature", Sign(s.Secret, at, body))
		}
		resp, err := client.Do(r)
		if err != nil {
			return unreachable(name, u.Host, err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)) // the status is the answer
		return judgeWebhook(name, resp)
	}, nil
}

func judgeWebhook(name string, resp *http.Response) error {
	e := &Error{Target: name, Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header, time.Now())}
	switch s := resp.StatusCode; {
	case s >= 200 && s < 300:
		return nil
	case s == http.StatusTooManyRequests:
		e.Kind = ErrLimited
	case s == http.StatusUnauthorized || s == http.StatusForbidden:
		e.Kind, e.Means = ErrDenied, "check url and secret"
	case s >= 300 && s < 400:
		e.Kind, e.Means = ErrRejected, "it redirects, and redirects are not followed; write the URL it points to"
	case s >= 500 || s == http.StatusRequestTimeout:
		e.Kind = ErrUnreachable
	default:
		e.Kind, e.Means = ErrRejected, "check url"
	}
	return e
}

// Sign returns the value of X-Postern-Signature: "v1=" and the HMAC-SHA256 of
// the timestamp (X-Postern-Timestamp, Unix seconds), a dot and the body, in
// hexadecimal. A receiver computes it again, compares in constant time, and
// refuses timestamps more than five minutes away from its own clock.
func Sign(secret string, at time.Time, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%d.", at.Unix())
	mac.Write(body)
	return "v1=" + hex.EncodeToString(mac.Sum(nil))
}

// Fingerprint is the SHA-256 of a certificate's public key (its
// SubjectPublicKeyInfo, RFC 7469 section 2.4), in the form that curl's
// --pinnedpubkey takes. "" for no certificate.
func Fingerprint(leaf *x509.Certificate) string {
	if leaf == nil {
		return ""
	}
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return "sha256//" + base64.StdEncoding.EncodeToString(sum[:])
}
