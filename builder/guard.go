package builder

import (
	"context"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// refusePublishedPassword refuses a build whose provenance would tell everybody
// the password in the URL of its context: with mode=max the solver records the
// definition as it is, while elsewhere it redacts URLs. (CVE-2023-26054)
func refusePublishedPassword(req *controlapi.SolveRequest) error {
	if !strings.Contains(req.FrontendAttrs["attest:provenance"], "mode=max") {
		return nil
	}
	for k, v := range req.FrontendAttrs {
		if k != "context" && !strings.HasPrefix(k, "context:") {
			continue
		}
		u, err := url.Parse(v)
		if err != nil || u.User == nil {
			continue
		}
		if _, secret := u.User.Password(); secret {
			return invalid("the provenance of this build would contain the password in the URL of its context: give the password as --secret id=GIT_AUTH_TOKEN, or take mode=min")
		}
	}
	return nil
}

// guardSolve applies refusePublishedPassword to gRPC clients.
func guardSolve(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if solve, ok := req.(*controlapi.SolveRequest); ok {
		if err := refusePublishedPassword(solve); err != nil {
			return nil, err
		}
	}
	return next(ctx, req)
}

// printable makes the text of an error valid UTF-8, which gRPC demands: it may
// quote what a client sent.
func printable(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	if err == nil || utf8.ValidString(err.Error()) {
		return resp, err
	}
	st := status.Convert(err)
	return nil, status.Error(st.Code(), strings.ToValidUTF8(st.Message(), "\uFFFD"))
}

// RedactURLs is a hook of the solver's log: it takes the credentials out of URLs.
type RedactURLs struct{}

var credentials = regexp.MustCompile(`://[^/@\s"]+@`)

// Levels implements logrus.Hook.
func (RedactURLs) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook.
func (RedactURLs) Fire(e *logrus.Entry) error {
	redact := func(text string) string { return credentials.ReplaceAllString(text, "://xxxxx@") }
	e.Message = redact(e.Message)
	for k, v := range e.Data {
		switch v := v.(type) {
		case string:
			e.Data[k] = redact(v)
		case error:
			e.Data[k] = redact(v.Error())
		}
	}
	return nil
}
