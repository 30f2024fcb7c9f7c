package testnet

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// answerer speaks as one service does.
type answerer struct {
	w       http.ResponseWriter
	r       *http.Request
	service string
}

// fail answers an error in the service's format.
func (o answerer) fail(status int, code, text string) {
	switch o.service {
	case "ssm":
		o.json(status, map[string]string{"__type": "com.amazonaws.ssm#" + code, "message": text})
	case "s3":
		o.xml(status, "<Error><Code>"+code+"</Code><Message>"+escapeXML(text)+"</Message><RequestId>fake</RequestId></Error>")
	default:
		o.xml(status, "<ErrorResponse><Error><Type>Sender</Type><Code>"+code+"</Code><Message>"+escapeXML(text)+
			"</Message></Error><RequestId>fake</RequestId></ErrorResponse>")
	}
}

// fault answers as the service does in trouble.
func (o answerer) fault(f AWSFault) {
	byService := func(m map[string]string, otherwise string) string {
		if code, ok := m[o.service]; ok {
			return code
		}
		return otherwise
	}
	switch f {
	case AWSBroken:
		o.fail(http.StatusInternalServerError, byService(map[string]string{"ssm": "InternalServerError", "s3": "InternalError"}, "InternalFailure"),
			"We encountered an internal error. Please try again.")
	case AWSThrottled:
		status := http.StatusBadRequest
		if o.service == "s3" {
			status = http.StatusServiceUnavailable
		}
		o.fail(status, byService(map[string]string{"ssm": "ThrottlingException", "s3": "SlowDown"}, "Throttling"), "Rate exceeded")
	case AWSSkewed:
		o.fail(http.StatusForbidden, byService(map[string]string{"s3": "RequestTimeTooSkewed", "ssm": "InvalidSignatureException"}, "SignatureDoesNotMatch"),
			"Signature expired: 20000101T000000Z is now earlier than 20260101T000000Z (20260101T000500Z - 5 min.)")
	case AWSDenied:
		o.fail(http.StatusForbidden, byService(map[string]string{"ssm": "AccessDeniedException"}, "AccessDenied"), "User is not authorized to perform this action")
	}
}

func (o answerer) json(status int, v any) {
	o.w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	o.w.WriteHeader(status)
	_ = json.NewEncoder(o.w).Encode(v) // the asker may be gone
}

func (o answerer) xml(status int, text string) {
	o.w.Header().Set("Content-Type", "text/xml")
	o.w.WriteHeader(status)
	_, _ = o.w.Write([]byte(xml.Header + text)) // the asker may be gone
}

func escapeXML(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}

// allowed counts the action, and refuses it when the key's policy does not
// allow it.
func (a *AWS) allowed(o answerer, who AWSKey, action, resource string, context map[string][]string) bool {
	a.mu.Lock()
	p, limited := a.policies[who.ID]
	a.mu.Unlock()
	if limited && !p.allows(action, resource, context) {
		a.refuse(action + " on " + resource + " is not in the policy of " + who.ARN)
		o.fault(AWSDenied)
		return false
	}
	a.count(action)
	return true
}

// sts has GetWebIdentityToken and GetCallerIdentity
// (https://docs.aws.amazon.com/STS/latest/APIReference/).
func (a *AWS) sts(o answerer, who AWSKey, body []byte) {
	form := o.r.URL.Query()
	if o.r.Method == http.MethodPost {
		var err error
		if form, err = url.ParseQuery(string(body)); err != nil {
			o.fail(http.StatusBadRequest, "MalformedQueryString", err.Error())
			return
		}
	}
	if form.Get("Version") != "2011-06-15" {
		o.fail(http.StatusBadRequest, "InvalidAction", "Could not find operation for version "+form.Get("Version"))
		return
	}
	switch form.Get("Action") {
	case "GetCallerIdentity":
		a.count("sts:GetCallerIdentity") // needs no right
		a.callerIdentity(o, who)
	case "GetWebIdentityToken":
		a.webIdentityToken(o, who, form)
	default:
		o.fail(http.StatusBadRequest, "InvalidAction", "Could not find operation "+form.Get("Action"))
	}
}

func (a *AWS) callerIdentity(o answerer, who AWSKey) {
	id := "AROAEXAMPLEEXAMPLE:orders"
	if o.r.Header.Get("Accept") == "application/json" {
		o.w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(o.w).Encode(map[string]any{"GetCallerIdentityResponse": map[string]any{
			"GetCallerIdentityResult": map[string]string{"Account": AWSAccount, "Arn": who.ARN, "UserId": id},
			"ResponseMetadata":        map[string]string{"RequestId": rand.Text()},
		}})
		return
	}
	o.xml(http.StatusOK, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>`+
		"<Arn>"+who.ARN+"</Arn><UserId>"+id+"</UserId><Account>"+AWSAccount+"</Account>"+
		"</GetCallerIdentityResult><ResponseMetadata><RequestId>fake</RequestId></ResponseMetadata></GetCallerIdentityResponse>")
}

func (a *AWS) webIdentityToken(o answerer, who AWSKey, form url.Values) {
	invalid := func(format string, args ...any) {
		o.fail(http.StatusBadRequest, "ValidationError", fmt.Sprintf(format, args...))
	}
	members := func(name string) (out []string) {
		for i := 1; form.Has(fmt.Sprintf(name, i)); i++ {
			out = append(out, form.Get(fmt.Sprintf(name, i)))
		}
		return out
	}
	audience := members("Audience.member.%d")
	if len(audience) < 1 || len(audience) > 10 {
		invalid("%d audiences, want 1 to 10", len(audience))
		return
	}
	for _, s := range audience {
		if s == "" || len(s) > 1000 {
			invalid("an audience has %d characters, want 1 to 1000", len(s))
			return
		}
	}
	alg := form.Get("SigningAlgorithm")
	if alg != "RS256" && alg != "ES384" {
		invalid("SigningAlgorithm %q, want RS256 or ES384", alg)
		return
	}
	seconds := 300
	if form.Has("DurationSeconds") {
		var err error
		if seconds, err = strconv.Atoi(form.Get("DurationSeconds")); err != nil || seconds < 60 || seconds > 3600 {
			invalid("DurationSeconds %q, want 60 to 3600", form.Get("DurationSeconds"))
			return
		}
	}
	keys, values := members("Tags.member.%d.Key"), members("Tags.member.%d.Value")
	if len(keys) != len(values) || len(keys) > 50 {
		invalid("%d keys and %d values of tags", len(keys), len(values))
		return
	}
	if !a.allowed(o, who, "sts:GetWebIdentityToken", "*", map[string][]string{
		"sts:IdentityTokenAudience": audience, "sts:SigningAlgorithm": {alg}, "sts:DurationSeconds": {strconv.Itoa(seconds)}}) {
		return
	}
	claims := a.Claims(audience[0])
	if len(audience) > 1 {
		claims["aud"] = audience
	}
	exp := a.now().Add(time.Duration(seconds) * time.Second)
	claims["exp"] = exp.Unix()
	if len(keys) > 0 {
		tags := map[string]string{}
		for i, k := range keys {
			tags[k] = values[i]
		}
		claims[AWSClaim].(map[string]any)["request_tags"] = tags
	}
	o.xml(http.StatusOK, `<GetWebIdentityTokenResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetWebIdentityTokenResult>`+
		"<WebIdentityToken>"+a.TokenAlg(alg, claims)+"</WebIdentityToken><Expiration>"+exp.UTC().Format("2006-01-02T15:04:05.000Z")+"</Expiration>"+
		"</GetWebIdentityTokenResult><ResponseMetadata><RequestId>fake</RequestId></ResponseMetadata></GetWebIdentityTokenResponse>")
}

// ssm has PutParameter and GetParameter
// (https://docs.aws.amazon.com/systems-manager/latest/APIReference/).
func (a *AWS) ssm(o answerer, who AWSKey, body []byte, lie bool) {
	if o.r.Method != http.MethodPost || o.r.URL.Path != "/" || o.r.Header.Get("Content-Type") != "application/x-amz-json-1.1" {
		o.fail(http.StatusNotFound, "UnknownOperationException", "want POST / with application/x-amz-json-1.1")
		return
	}
	var in struct {
		Name, Value, Type, Tier string
		Overwrite               bool
	}
	if err := json.Unmarshal(body, &in); err != nil || in.Name == "" || len(in.Name) > 2048 {
		o.fail(http.StatusBadRequest, "ValidationException", "Name is missing or the body is no JSON")
		return
	}
	resource := "arn:aws:ssm:" + AWSRegion + ":" + AWSAccount + ":parameter/" + strings.TrimPrefix(in.Name, "/")
	a.mu.Lock()
	old, there := a.params[in.Name]
	a.mu.Unlock()
	switch o.r.Header.Get("X-Amz-Target") {
	case "AmazonSSM.PutParameter":
		switch {
		case !a.allowed(o, who, "ssm:PutParameter", resource, nil):
		case in.Type != "String" && in.Type != "StringList" && in.Type != "SecureString" && !there:
			o.fail(http.StatusBadRequest, "ValidationException", "A parameter type is required when you create a parameter.")
		case len(in.Value) > 4096 || in.Value == "":
			o.fail(http.StatusBadRequest, "ValidationException", "The value has "+strconv.Itoa(len(in.Value))+" characters, want 1 to 4096")
		case there && !in.Overwrite:
			o.fail(http.StatusBadRequest, "ParameterAlreadyExists", "The parameter already exists. To overwrite this value, set the overwrite option in the request to true.")
		default:
			a.SetParameter(in.Name, in.Value)
			o.json(http.StatusOK, map[string]any{"Tier": "Standard", "Version": 1})
		}
	case "AmazonSSM.GetParameter":
		switch {
		case !a.allowed(o, who, "ssm:GetParameter", resource, nil):
		case !there:
			o.fail(http.StatusBadRequest, "ParameterNotFound", "")
		default:
			if lie {
				old = "{}"
			}
			o.json(http.StatusOK, map[string]any{"Parameter": map[string]any{
				"Name": in.Name, "Value": old, "Type": "String", "Version": 1, "ARN": resource, "DataType": "text"}})
		}
	default:
		o.fail(http.StatusBadRequest, "UnknownOperationException", "")
	}
}

// s3 has PutObject and GetObject, with the bucket in the path
// (https://docs.aws.amazon.com/AmazonS3/latest/API/).
func (a *AWS) s3(o answerer, who AWSKey, body []byte, lie bool) {
	bucket, key, ok := strings.Cut(strings.TrimPrefix(o.r.URL.Path, "/"), "/")
	if !ok || key == "" {
		o.fail(http.StatusBadRequest, "InvalidBucketName", "want /bucket/key")
		return
	}
	resource := "arn:aws:s3:::" + bucket + "/" + key
	switch o.r.Method {
	case http.MethodPut:
		if a.allowed(o, who, "s3:PutObject", resource, nil) {
			a.SetObject(bucket, key, body)
			o.w.Header().Set("ETag", `"fake"`)
		}
	case http.MethodGet:
		if !a.allowed(o, who, "s3:GetObject", resource, nil) {
			return
		}
		content := a.Object(bucket, key)
		switch {
		case content == nil:
			o.fail(http.StatusNotFound, "NoSuchKey", "The specified key does not exist.")
		case lie:
			_, _ = o.w.Write([]byte("{}"))
		default:
			_, _ = o.w.Write(content)
		}
	default:
		o.fail(http.StatusMethodNotAllowed, "MethodNotAllowed", o.r.Method)
	}
}

// route53 has ChangeResourceRecordSets with UPSERT
// (https://docs.aws.amazon.com/Route53/latest/APIReference/).
func (a *AWS) route53(o answerer, who AWSKey, body []byte) {
	zone, ok := strings.CutPrefix(o.r.URL.Path, "/2013-04-01/hostedzone/")
	zone, rrset := strings.CutSuffix(strings.TrimSuffix(zone, "/"), "/rrset")
	if !ok || !rrset || strings.Contains(zone, "/") || o.r.Method != http.MethodPost {
		o.fail(http.StatusNotFound, "InvalidAction", "want POST /2013-04-01/hostedzone/ZONE/rrset")
		return
	}
	var in struct {
		XMLName xml.Name `xml:"https://route53.amazonaws.com/doc/2013-04-01/ ChangeResourceRecordSetsRequest"`
		Changes []struct {
			Action string
			Set    struct {
				Name, Type string
				TTL        int
				Values     []string `xml:"ResourceRecords>ResourceRecord>Value"`
			} `xml:"ResourceRecordSet"`
		} `xml:"ChangeBatch>Changes>Change"`
	}
	if err := xml.Unmarshal(body, &in); err != nil || len(in.Changes) == 0 {
		o.fail(http.StatusBadRequest, "InvalidInput", fmt.Sprintf("%d changes, %v", len(in.Changes), err))
		return
	}
	context := map[string][]string{}
	for _, c := range in.Changes {
		add := func(key, value string) {
			key = "route53:ChangeResourceRecordSets" + key
			context[key] = append(context[key], value)
		}
		add("Actions", c.Action)
		add("RecordTypes", c.Set.Type)
		add("NormalizedRecordNames", strings.TrimSuffix(strings.ToLower(c.Set.Name), "."))
		text := c.Set.Type != "TXT" || len(c.Set.Values) == 1 && strings.HasPrefix(c.Set.Values[0], `"`) && strings.HasSuffix(c.Set.Values[0], `"`)
		if c.Action != "UPSERT" || c.Set.TTL == 0 || len(c.Set.Values) == 0 || !text {
			o.fail(http.StatusBadRequest, "InvalidChangeBatch", fmt.Sprintf("change %+v", c))
			return
		}
	}
	if !a.allowed(o, who, "route53:ChangeResourceRecordSets", "arn:aws:route53:::hostedzone/"+zone, context) {
		return
	}
	a.mu.Lock()
	for _, c := range in.Changes {
		a.records[zone+" "+strings.TrimSuffix(c.Set.Name, ".")+" "+c.Set.Type] = c.Set.Values
	}
	a.mu.Unlock()
	id := base64.RawURLEncoding.EncodeToString([]byte(zone))
	o.xml(http.StatusOK, `<ChangeResourceRecordSetsResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><ChangeInfo><Id>/change/`+id+
		"</Id><Status>PENDING</Status><SubmittedAt>"+a.now().UTC().Format(time.RFC3339)+"</SubmittedAt></ChangeInfo></ChangeResourceRecordSetsResponse>")
}
