package config

import "time"

// Publish is one place where callers find this house when DNS does not tell
// them: exactly one of ssm, s3, route53 and webhook. What is written there, and
// the rights it takes, is in docs/publish.md.
type Publish struct {
	// A parameter of AWS Systems Manager. Absent: another kind.
	SSM *PublishSSM `yaml:"ssm"`

	// An object in an S3 bucket. Absent: another kind.
	S3 *PublishS3 `yaml:"s3"`

	// The A and AAAA records of a name in AWS Route 53. Absent: another kind.
	Route53 *PublishRoute53 `yaml:"route53"`

	// An HTTPS server of your own. Absent: another kind.
	Webhook *PublishWebhook `yaml:"webhook"`

	// The names that callers are told, the preferred one first. Default: the
	// hosts of all sites, without wildcards and addresses.
	Names []string `yaml:"names"`

	// The port of HTTPS as seen from outside, from 1 to 65535, when the router
	// forwards another one. Default: 443 with port_mapping: auto, else that of
	// the first address of listen.https.
	Port int `yaml:"port"`
}

// PublishSSM is a parameter of AWS Systems Manager. The key needs
// ssm:PutParameter on it.
type PublishSSM struct {
	// The AWS region, such as ap-northeast-2. Required.
	Region string `yaml:"region"`

	// The name of the parameter, such as /postern/endpoint. Required.
	Parameter string `yaml:"parameter"`

	// A file with the AWS key: in the format of AWS's credentials file, or
	// JSON as `aws iam create-access-key` prints it. It is read at each use.
	// Absent: access_key and secret are the key.
	KeyFile string `yaml:"key_file"`

	// The AWS key's id, instead of key_file. Default: none.
	AccessKey string `yaml:"access_key"`

	// What belongs to access_key. secret_file reads it from a file. Default:
	// none.
	Secret Secret `yaml:"secret"`

	// Where the service is: a base URL. Default: AWS's
	// own.
	Endpoint string `yaml:"endpoint"`

	// A PEM file with the roots to trust for it. Absent: the system's roots.
	Root string `yaml:"root"`
}

// PublishS3 is an object in an S3 bucket. The key needs s3:PutObject on it.
type PublishS3 struct {
	// The AWS region of the bucket. Required.
	Region string `yaml:"region"`

	// The bucket. Required.
	Bucket string `yaml:"bucket"`

	// The key of the object, such as postern/endpoint.json. Required.
	Key string `yaml:"key"`

	// A file with the AWS key: in the format of AWS's credentials file, or
	// JSON as `aws iam create-access-key` prints it. It is read at each use.
	// Absent: access_key and secret are the key.
	KeyFile string `yaml:"key_file"`

	// The AWS key's id, instead of key_file. Default: none.
	AccessKey string `yaml:"access_key"`

	// What belongs to access_key. secret_file reads it from a file. Default:
	// none.
	Secret Secret `yaml:"secret"`

	// Where the service is: a base URL, to which bucket and key are
	// added. Default: AWS's
	// own.
	Endpoint string `yaml:"endpoint"`

	// A PEM file with the roots to trust for it. Absent: the system's roots.
	Root string `yaml:"root"`
}

// PublishRoute53 is the A and the AAAA record of a name. The key needs
// route53:ChangeResourceRecordSets on the zone.
type PublishRoute53 struct {
	// The id of the hosted zone. Required.
	Zone string `yaml:"zone"`

	// The name of the records, such as home.example.org. Required.
	Name string `yaml:"name"`

	// How long resolvers may keep the records. Default 1m.
	TTL time.Duration `yaml:"ttl"`

	// A file with the AWS key: in the format of AWS's credentials file, or
	// JSON as `aws iam create-access-key` prints it. It is read at each use.
	// Absent: access_key and secret are the key.
	KeyFile string `yaml:"key_file"`

	// The AWS key's id, instead of key_file. Default: none.
	AccessKey string `yaml:"access_key"`

	// What belongs to access_key. secret_file reads it from a file. Default:
	// none.
	Secret Secret `yaml:"secret"`

	// Where the service is: a base URL. Default: AWS's
	// own.
	Endpoint string `yaml:"endpoint"`

	// A PEM file with the roots to trust for it. Absent: the system's roots.
	Root string `yaml:"root"`
}

// PublishWebhook is a server that takes the document by POST.
type PublishWebhook struct {
	// The URL. Required.
	URL string `yaml:"url"`

	// What the requests are signed with (docs/publish.md says how), at least
	// 16 characters. secret_file reads it from a file. Default: none, so that
	// they are not signed.
	Secret Secret `yaml:"secret"`

	// A PEM file with the roots to trust for it. Absent: the system's roots.
	Root string `yaml:"root"`
}

func (r *PublishRoute53) setDefaults() { r.TTL = time.Minute }

// inherit makes the paths final.
func (p *Publish) inherit(env environment, dir string) {
	var files []*string
	if s := p.SSM; s != nil {
		files = append(files, &s.KeyFile, &s.Root)
	}
	if s := p.S3; s != nil {
		files = append(files, &s.KeyFile, &s.Root)
	}
	if s := p.Route53; s != nil {
		files = append(files, &s.KeyFile, &s.Root)
	}
	if s := p.Webhook; s != nil {
		files = append(files, &s.Root)
	}
	for _, f := range files {
		*f = env.resolve(dir, *f)
	}
}
