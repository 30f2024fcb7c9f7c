package publish

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// Key is an AWS access key: in a file, or given.
type Key struct {
	// File holds the key: an AWS credentials file (the section default, else
	// its first one), or JSON as `aws iam create-access-key` and
	// `aws sts assume-role` print it. It is read at each attempt, so that a
	// new key is taken up by itself. "": ID and Secret count.
	File string

	ID, Secret string
}

const maxKeyFile = 64 << 10

// load returns the key. Its errors name the file and never show what is in
// it.
func (k Key) load() (aws.Credentials, error) {
	if k.File == "" {
		return aws.Credentials{AccessKeyID: k.ID, SecretAccessKey: k.Secret}, nil
	}
	f, err := os.Open(k.File)
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("key file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("key file: %w", err)
	}
	var c aws.Credentials
	if len(b) <= maxKeyFile {
		if c = jsonKey(b); c.AccessKeyID == "" {
			c = sharedKey(b)
		}
	}
	if c.AccessKeyID == "" || c.SecretAccessKey == "" {
		return c, fmt.Errorf("key file %s holds no access key, want aws_access_key_id and aws_secret_access_key, or JSON with AccessKeyId and SecretAccessKey", k.File)
	}
	return c, nil
}

// jsonKey reads what the AWS command line prints.
func jsonKey(b []byte) aws.Credentials {
	type key struct{ AccessKeyID, SecretAccessKey, SessionToken string }
	var in struct {
		key
		AccessKey, Credentials key // of create-access-key and of assume-role
	}
	if json.Unmarshal(b, &in) != nil {
		return aws.Credentials{}
	}
	for _, k := range []key{in.key, in.AccessKey, in.Credentials} {
		if k.AccessKeyID != "" {
			return aws.Credentials{AccessKeyID: k.AccessKeyID, SecretAccessKey: k.SecretAccessKey, SessionToken: k.SessionToken}
		}
	}
	return aws.Credentials{}
}

// sharedKey reads the format of ~/.aws/credentials
// (https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html).
func sharedKey(b []byte) aws.Credentials {
	var first, section string
	sections := map[string]*aws.Credentials{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if name, ok := strings.CutPrefix(line, "["); ok {
			section = strings.TrimSpace(strings.TrimPrefix(strings.TrimSuffix(name, "]"), "profile "))
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		if sections[section] == nil {
			sections[section] = new(aws.Credentials)
			if len(sections) == 1 {
				first = section
			}
		}
		c, value := sections[section], strings.TrimSpace(value)
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "aws_access_key_id":
			c.AccessKeyID = value
		case "aws_secret_access_key":
			c.SecretAccessKey = value
		case "aws_session_token":
			c.SessionToken = value
		}
	}
	for _, name := range []string{"default", first} {
		if c := sections[name]; c != nil {
			return *c
		}
	}
	return aws.Credentials{}
}
