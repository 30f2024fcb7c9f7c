package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"postern/internal/config"
	"postern/internal/dnscheck"
	"postern/internal/tlsmgr"
)

// newChecker translates what the file says about our own look-ups.
func (a *App) newChecker(cfg *config.Config) *dnscheck.Checker {
	out := dnsConfig(cfg, a.log)
	out.Own = a.knownAddresses
	return dnscheck.New(out)
}

// tlsConfig is the package's tlsConfig with the DNS asked before each attempt,
// and answers to dns-01.
func (a *App) tlsConfig(cfg *config.Config, check *dnscheck.Checker) (tlsmgr.Config, error) {
	out := tlsConfig(cfg)
	if out.PublicAddrs != nil {
		out.PublicAddrs = a.publicAddresses
	}
	d, err := a.dns01.next(cfg, check, tlsmgr.DNS01Config{Log: a.log})
	if err != nil {
		return out, err
	}
	a.dns01 = d
	out.Check, out.DNS01, out.OnNotice = check.Check, d.solver, a.noticed
	return out, nil
}

// applyTLS gives the certificates' keeper a new configuration.
func (a *App) applyTLS(cfg *config.Config, check *dnscheck.Checker) error {
	next, err := a.tlsConfig(cfg, check)
	if err != nil {
		return err
	}
	return a.certs.Apply(next)
}

func dnsConfig(cfg *config.Config, log *slog.Logger) dnscheck.Config {
	out := dnscheck.Config{
		Resolvers:         cfg.DNS.Resolvers,
		AuthoritativePort: cfg.DNS.AuthoritativePort,
		DoH:               cfg.DNS.DoH,
		Log:               log,
	}
	if cfg.Data != "" {
		out.File = filepath.Join(cfg.Data, "nameservers.json")
	}
	return out
}

// CheckName asks the DNS about a name now, as is done before an attempt at the
// certificate authority, and writes every answer and the verdict to w. It
// works without a running postern. ok is whether the verdict is green.
func CheckName(ctx context.Context, cfg *config.Config, name string, w io.Writer) (ok bool, err error) {
	q := dnscheck.Question{Name: name}
	if challenges := cfg.TLS.ACME[0].Challenges; len(challenges) > 0 {
		q.Challenge = challenges[0]
	}
	if only := cfg.TLS.Challenge; only != "" && only != "auto" {
		q.Challenge = only
	}
	if strings.HasPrefix(name, "*.") {
		q.Challenge = "dns-01" // the only one that proves a wildcard (RFC 8555 section 8.4)
	}
	note := ""
	if cfg.TLS.Issuer != "local" {
		for _, ca := range cfg.TLS.ACME {
			ids, err := caaIdentities(ctx, ca.Directory, ca.Root)
			if err != nil {
				note = fmt.Sprintf("note: %v; what CAA allows is not judged\n", err)
				q.CAs = nil // it may allow that one
				break
			}
			q.CAs = append(q.CAs, ids...)
		}
	}
	dns := dnsConfig(cfg, nil)
	dns.ReadOnly = true // the file is the running postern's
	v := dnscheck.New(dns).Check(ctx, q)
	if err := writeFindings(w, v.Findings); err != nil {
		return false, err
	}
	_, err = fmt.Fprintf(w, "%s%s: %s: %s\n", note, name, v.Colour, v.Sentence)
	return v.Colour == dnscheck.Green, err
}

// writeFindings writes a table; what is bad has a mark in its first column.
func writeFindings(w io.Writer, findings []dnscheck.Finding) error {
	if len(findings) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, " \tSERVER\tNAME\tTYPE\tTIME\tANSWER") // Flush tells
	for _, f := range findings {
		mark := " "
		if f.Bad {
			mark = "!"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", mark, f.Server, f.Name, f.Type, f.RTT.Round(time.Millisecond), f.Result)
	}
	fmt.Fprintln(t)
	return t.Flush()
}

// caaIdentities are the names that CAA records know an authority by, as its
// directory tells (RFC 8555 section 7.1.1). Let's Encrypt's are known.
func caaIdentities(ctx context.Context, directory, rootFile string) ([]string, error) {
	u, err := url.Parse(directory)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(u.Hostname(), "api.letsencrypt.org") {
		return []string{"letsencrypt.org"}, nil
	}
	dir, err := fetchDirectory(ctx, u, rootFile)
	if err != nil {
		return nil, err
	}
	if len(dir.Meta.CAAIdentities) == 0 {
		return nil, fmt.Errorf("the authority at %s names no caaIdentities", u.Host)
	}
	return dir.Meta.CAAIdentities, nil
}

// directory is what we want of an authority's (RFC 8555 section 7.1.1).
type directory struct {
	NewOrder string `json:"newOrder"`
	Meta     struct {
		CAAIdentities []string `json:"caaIdentities"`
	} `json:"meta"`
}

// fetchDirectory asks an authority for its directory.
func fetchDirectory(ctx context.Context, u *url.URL, rootFile string) (*directory, error) {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	if rootFile != "" {
		pem, err := os.ReadFile(rootFile)
		if err != nil {
			return nil, fmt.Errorf("tls.acme.root: %w", err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("the authority at %s does not answer", u.Host)
	}
	defer res.Body.Close()
	var dir directory
	err = json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&dir)
	if res.StatusCode != http.StatusOK || err != nil || dir.NewOrder == "" {
		return nil, fmt.Errorf("the authority at %s answers %s without an ACME directory", u.Host, res.Status)
	}
	return &dir, nil
}

// directoryAnswers reports why the directory at a URL does not do its work.
func directoryAnswers(ctx context.Context, text, rootFile string) error {
	u, err := url.Parse(text)
	if err != nil {
		return err
	}
	_, err = fetchDirectory(ctx, u, rootFile)
	return err
}
