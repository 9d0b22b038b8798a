package container

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/moby/moby/client"

	"lighter/cli/session"
)

// grepLogs is ContainerLogs with the engine's own parameter grep.
func grepLogs(ctx context.Context, s *session.Session, id, pattern string, o client.ContainerLogsOptions) (io.ReadCloser, error) {
	q := url.Values{"grep": {pattern}, "stdout": {"1"}, "stderr": {"1"}, "tail": {o.Tail}}
	for key, set := range map[string]bool{"follow": o.Follow, "timestamps": o.Timestamps, "details": o.Details} {
		if set {
			q.Set(key, "1")
		}
	}
	for key, text := range map[string]string{"since": o.Since, "until": o.Until} {
		if text == "" {
			continue
		}
		stamp, err := unixTime(text, time.Now())
		if err != nil {
			return nil, fmt.Errorf("invalid value for %q: %w", key, err)
		}
		q.Set(key, stamp)
	}
	resp, err := s.Request(ctx, http.MethodGet, "/containers/"+id+"/logs", q, nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// unixTime reads a duration before now, a Unix time, or a date with or without a
// time and zone, as a Unix time with its fraction.
func unixTime(text string, now time.Time) (string, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return formatUnix(now.Add(-d)), nil
	}
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return text, nil
	}
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04Z07:00", "2006-01-02T15:04", "2006-01-02Z07:00", "2006-01-02",
	} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return formatUnix(t), nil
		}
	}
	return "", fmt.Errorf("failed to parse value as time or duration: %q", text)
}

func formatUnix(t time.Time) string { return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()) }
