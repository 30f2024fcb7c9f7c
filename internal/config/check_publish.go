package config

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

var (
	regionForm    = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-[0-9]$`)
	parameterForm = regexp.MustCompile(`^/?[a-zA-Z0-9_.-]+(/[a-zA-Z0-9_.-]+)*$`)
	bucketForm    = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	zoneForm      = regexp.MustCompile(`^(/hostedzone/)?Z[A-Z0-9]+$`)
)

// publish checks every target. What it is called tells two of the same apart.
func (c *checker) publish() {
	seen := map[string]string{}
	for i := range c.cfg.Publish {
		at := c.item("publish", i)
		p := &c.cfg.Publish[i]
		if c.isBroken(at) {
			continue
		}
		var kinds, same []string
		if s := p.SSM; s != nil {
			kinds, same = append(kinds, "ssm"), append(same, "ssm "+s.Region+s.Parameter)
			c.publishSSM(at+".ssm", s)
		}
		if s := p.S3; s != nil {
			kinds, same = append(kinds, "s3"), append(same, "s3 "+s.Bucket+"/"+s.Key)
			c.publishS3(at+".s3", s)
		}
		if s := p.Route53; s != nil {
			kinds, same = append(kinds, "route53"), append(same, "route53 "+s.Name)
			c.publishRoute53(at+".route53", s)
		}
		if s := p.Webhook; s != nil {
			kinds, same = append(kinds, "webhook"), append(same, "webhook "+s.URL)
			c.publishWebhook(at+".webhook", s)
		}
		switch {
		case len(kinds) == 0 && !c.unknown[at]:
			c.errorf(at, "is no place, want one of ssm, s3, route53 or webhook")
		case len(kinds) > 1:
			c.errorf(at, "is %s at once, want one; begin another entry with \"- \" for each", strings.Join(kinds, " and "))
		case len(kinds) == 1:
			if before, ok := seen[same[0]]; ok {
				c.errorf(at, "is the same place as %s; keep one", c.where(before))
			}
			seen[same[0]] = at
		}
		c.publishNames(at, p)
	}
}

func (c *checker) publishNames(at string, p *Publish) {
	if c.written(at + ".port") {
		c.at(at+".port", func() {
			if p.Port < 1 || p.Port > 65535 {
				c.errorf(at+".port", "port %d, want 1 to 65535", p.Port)
			}
		})
	}
	for j, name := range p.Names {
		item := c.item(at+".names", j)
		c.at(item, func() {
			host, err := canonicalHost(name)

			switch {
			case err != nil:
				c.errorf(item, "%v", err)
			case isIP(host) || strings.HasPrefix(host, "*."):
				c.errorf(item, "%q is no single name; callers check the certificate for a name such as mypi.duckdns.org", name)
			default:
				p.Names[j] = host
			}
		})
	}
}

// required reports a text that is missing or does not have its form.
func (c *checker) required(at, value string, form *regexp.Regexp, want string) {
	c.at(at, func() {
		switch {
		case value == "":
			c.errorf(at, "is missing, want %s", want)
		case !form.MatchString(value):
			c.errorf(at, "%q is not what it should be, want %s", value, want)
		}
	})
}

const regionWant = "an AWS region such as ap-northeast-2"

func (c *checker) publishSSM(at string, s *PublishSSM) {
	c.required(at+".region", s.Region, regionForm, regionWant)
	c.required(at+".parameter", s.Parameter, parameterForm, "a name such as /postern/endpoint")
	c.at(at+".parameter", func() {
		first, _, _ := strings.Cut(strings.TrimPrefix(strings.ToLower(s.Parameter), "/"), "/")
		if strings.HasPrefix(first, "aws") || strings.HasPrefix(first, "ssm") {
			c.errorf(at+".parameter", "%q begins with aws or ssm, which AWS keeps to itself; write one such as /postern/endpoint", s.Parameter)
		}
	})
	c.awsKey(at, s.KeyFile, s.AccessKey, s.Secret, s.Endpoint)
}

func (c *checker) publishS3(at string, s *PublishS3) {
	c.required(at+".region", s.Region, regionForm, regionWant)
	c.required(at+".bucket", s.Bucket, bucketForm, "the name of a bucket, without s3:// and key")
	c.at(at+".key", func() {
		switch {
		case s.Key == "":
			c.errorf(at+".key", "is missing, want the key of the object such as postern/endpoint.json")
		case strings.HasPrefix(s.Key, "/") || len(s.Key) > 1024 || strings.ContainsFunc(s.Key, func(r rune) bool { return r < ' ' }):
			c.errorf(at+".key", "%q is no key of an object, want one such as postern/endpoint.json; the AWS key goes into key_file", s.Key)
		}
	})
	c.awsKey(at, s.KeyFile, s.AccessKey, s.Secret, s.Endpoint)
}

func (c *checker) publishRoute53(at string, s *PublishRoute53) {
	c.required(at+".zone", s.Zone, zoneForm, "the id of the hosted zone, which begins with Z")
	c.at(at+".name", func() {
		if s.Name == "" {
			c.errorf(at+".name", "is missing, want a name such as home.example.org")
			return
		}
		host, err := canonicalHost(s.Name)
		if err != nil {
			c.errorf(at+".name", "%v", err)
			return
		}
		s.Name = host
	})
	c.at(at+".ttl", func() {
		if s.TTL < time.Second || s.TTL > 24*time.Hour {
			c.errorf(at+".ttl", "%s is out of bounds, want 1s to 24h", formatDuration(s.TTL))
		}
	})
	c.awsKey(at, s.KeyFile, s.AccessKey, s.Secret, s.Endpoint)
}

// awsKey checks who signs, and where to.
func (c *checker) awsKey(at, file, id string, secret Secret, endpoint string) {
	secretAt := at + ".secret"
	if c.written(secretAt + "_file") {
		secretAt += "_file"
	}
	given := c.written(at+".access_key") || c.written(secretAt)
	switch {
	case c.isBroken(at + ".key_file"), c.isBroken(at + ".access_key"), c.isBroken(secretAt):
	case c.written(at+".key_file") && given:
		c.errorf(at+".key_file", "there is access_key or secret as well; keep one of the two ways")
	case c.written(at + ".key_file"):
		c.file(at+".key_file", file)
	case !given:
		c.errorf(at+".key_file", "is missing, want a file with the AWS key; docs/publish.md has the policy it needs")
	case id == "" || !secret.IsSet():
		c.errorf(at+".access_key", "access_key and secret belong together; write both, or key_file")
	case len(id) > 32 || !strings.HasPrefix(id, "A"):
		c.errorf(at+".access_key", "is no access key id, which begins with AKIA; are access_key and secret swapped?")
	}
	c.at(at+".endpoint", func() {
		if endpoint != "" {
			c.publishURL(at+".endpoint", endpoint, false)
		}
	})
}

func (c *checker) publishWebhook(at string, s *PublishWebhook) {
	c.at(at+".url", func() {
		if s.URL == "" {
			c.errorf(at+".url", "is missing, want one such as https://hooks.example.org/postern")
			return
		}
		c.publishURL(at+".url", s.URL, true)
	})
	secretAt := at + ".secret"
	if c.written(secretAt + "_file") {
		secretAt += "_file"
	}
	c.at(secretAt, func() {
		if n := len(s.Secret.Reveal()); c.written(secretAt) && n < 16 {
			c.errorf(secretAt, "has %d characters, want 16 or more; `openssl rand -hex 16` makes one", n)
		}
	})
}

// publishURL checks a URL without showing more of it than its host: a
// webhook's path and query are secrets more often than not.
func (c *checker) publishURL(at, value string, query bool) {
	u, err := checkURL(value)
	switch {
	case err != nil && query:
		c.errorf(at, "is not a URL, want one such as https://hooks.example.org/postern without a user name")
	case err != nil:
		c.errorf(at, "%v", err)
	case !query && (u.RawQuery != "" || u.Fragment != ""):
		c.errorf(at, "%q has more than a host and a path, want a base URL such as https://s3.example.org", redactURL(value))
	case u.Scheme != "https" && !nearby(u.Hostname()):
		c.errorf(at, "%s is not asked over https, so anyone on the way could change what callers are told; plain http is for an address of this machine or this house only", fmt.Sprintf("%q", u.Host))
	}
}
