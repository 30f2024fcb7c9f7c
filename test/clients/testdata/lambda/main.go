// A Lambda function that calls home. docs/callers.md shows this file.
package main

import (
	"context"
	"encoding/json"
	"os"
	"strings"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"

	postern "postern/clients/go"
)

var home = postern.New(postern.Options{
	Names:    strings.Split(os.Getenv("HOME_NAMES"), ","),
	Audience: os.Getenv("HOME_AUDIENCE"),
	Endpoint: postern.Endpoint{Parameter: "/postern/endpoint"},
	RequestID: func(ctx context.Context) string {
		lc, _ := lambdacontext.FromContext(ctx)
		return lc.AwsRequestID
	},
})

func main() {
	lambda.Start(func(ctx context.Context, event json.RawMessage) (json.RawMessage, error) {
		return home.JSON(ctx, "POST", "/orders", event)
	})
}
