package app

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"postern/internal/config"
)

// CallerSnippet returns a ready handler for a caller in a language: node,
// python or go. The names are the owner's own; what is secret comes from the
// environment.
func CallerSnippet(cfg *config.Config, name, language string) (string, error) {
	c := cfg.Callers[name]
	if c == nil {
		return "", fmt.Errorf("%s: not in callers of the configuration", name)
	}
	s := snippet{way: c, path: "/"}
	for i := range cfg.Sites {
		site := &cfg.Sites[i]
		for _, r := range site.AllRoutes() {
			if !slices.Contains(r.Callers, name) {
				continue
			}
			for _, h := range site.Hosts {
				if !strings.HasPrefix(h, "*.") && !slices.Contains(s.hosts, h+httpsPortOf(cfg)) {
					s.hosts = append(s.hosts, h+httpsPortOf(cfg))
				}
			}
			if s.path == "/" {
				s.path = strings.TrimSuffix(r.Path, "*")
			}
		}
	}
	if len(s.hosts) == 0 {
		return "", fmt.Errorf("%s: may use no site; add it to callers of one", name)
	}
	switch {
	case c.AWS != nil && c.AWS.Issuer != "":
	case c.Signature != nil, c.AWS == nil && c.MTLS == nil && c.JWT == nil, len(c.APIKeyHash) > 0:
	default:
		return "", fmt.Errorf("%s: the helpers prove who calls by AWS role, signature or API key, and callers.%s has none of them", name, name)
	}
	switch language {
	case "node":
		return s.node(), nil
	case "python":
		return s.python(), nil
	case "go":
		return s.golang(), nil
	}
	return "", fmt.Errorf("%q: want node, python or go", language)
}

// httpsPortOf is ":PORT" of the first https listener, "" for 443 and for any free
// port.
func httpsPortOf(cfg *config.Config) string {
	if len(cfg.Listen.HTTPS) == 0 {
		return ""
	}
	_, port, err := net.SplitHostPort(cfg.Listen.HTTPS[0])
	if err != nil || port == "443" || port == "0" {
		return ""
	}
	return ":" + port
}

type snippet struct {
	way   *config.Caller
	hosts []string
	path  string
}

// quoted are the hosts as a list in a language that quotes with q.
func (s *snippet) quoted(q string) string {
	var out []string
	for _, h := range s.hosts {
		out = append(out, q+h+q)
	}
	return strings.Join(out, ", ")
}

func (s *snippet) node() string {
	proof := "apiKey: process.env.POSTERN_KEY"
	switch {
	case s.way.AWS != nil:
		proof = fmt.Sprintf("aws: { audience: '%s' }", s.way.AWS.Audience)
	case s.way.Signature != nil:
		proof = fmt.Sprintf("signature: { keyId: '%s', secret: process.env.POSTERN_SECRET }", s.way.Signature.KeyID)
	}
	return fmt.Sprintf(`import { Postern } from './postern.mjs'   // clients/node/postern.mjs

const home = new Postern({ names: [%s], %s })

export const handler = async (event, context) => {
  const res = await home.call('POST', '%s', { body: event, context })
  return res.json()
}
`, s.quoted("'"), proof, s.path)
}

func (s *snippet) python() string {
	proof := `api_key=os.environ["POSTERN_KEY"]`
	switch {
	case s.way.AWS != nil:
		proof = fmt.Sprintf(`aws={"audience": "%s"}`, s.way.AWS.Audience)
	case s.way.Signature != nil:
		proof = fmt.Sprintf(`signature={"key_id": "%s", "secret": os.environ["POSTERN_SECRET"]}`, s.way.Signature.KeyID)
	}
	imports := "import os\n\n"
	if s.way.AWS != nil {
		imports = ""
	}
	return fmt.Sprintf(`%sfrom postern import Postern   # clients/python/postern.py

home = Postern([%s], %s)


def handler(event, context):
    return home.call("POST", "%s", body=event, context=context).json()
`, imports, s.quoted(`"`), proof, s.path)
}

func (s *snippet) golang() string {
	proof, env := `APIKey: os.Getenv("POSTERN_KEY")`, "\t\"os\"\n"
	switch {
	case s.way.AWS != nil:
		proof, env = fmt.Sprintf("Audience: %q", s.way.AWS.Audience), ""
	case s.way.Signature != nil:
		proof = fmt.Sprintf("KeyID: %q, Secret: os.Getenv(\"POSTERN_SECRET\")", s.way.Signature.KeyID)
	}
	return fmt.Sprintf(`package main

import (
	"context"
	"encoding/json"
%s
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"

	postern "postern/clients/go" // or where you copied it
)

var home = postern.New(postern.Options{
	Names: []string{%s}, %s,
	RequestID: func(ctx context.Context) string {
		lc, _ := lambdacontext.FromContext(ctx)
		return lc.AwsRequestID
	},
})

func handler(ctx context.Context, event json.RawMessage) (json.RawMessage, error) {
	return home.JSON(ctx, "POST", "%s", event)
}

func main() { lambda.Start(handler) }
`, env, s.quoted(`"`), proof, s.path)
}
