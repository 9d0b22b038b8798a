package driver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	ctrlog "lighter/engine/log"
	"lighter/engine/log/delivery"
)

var awsKeys = []string{
	"awslogs-region", "awslogs-endpoint", "awslogs-group", "awslogs-stream", "awslogs-create-group", "awslogs-create-stream",
	"awslogs-datetime-format", "awslogs-multiline-pattern", "awslogs-credentials-endpoint",
	"awslogs-force-flush-interval-seconds", "awslogs-max-buffered-events", "awslogs-format", "tag",
}

// The limits of PutLogEvents.
const (
	awsEventExtra  = 26 // bytes that an event counts more than its text
	awsEventBytes  = 262144 - awsEventExtra
	awsPutBytes    = 1 << 20
	awsPutEvents   = 10000
	awsFlush       = 5 * time.Second
	awsMaxBuffered = 4096
)

func checkAWS(opts map[string]string) error {
	if opts["awslogs-group"] == "" {
		return errors.New("must specify a value for log opt 'awslogs-group'")
	}
	for _, key := range []string{"awslogs-create-group", "awslogs-create-stream"} {
		if v := opts[key]; v != "" {
			if _, err := strconv.ParseBool(v); err != nil {
				return fmt.Errorf("must specify valid value for log opt '%s': %w", key, err)
			}
		}
	}
	for _, key := range []string{"awslogs-force-flush-interval-seconds", "awslogs-max-buffered-events"} {
		if v := opts[key]; v != "" {
			if n, err := strconv.Atoi(v); err != nil || n <= 0 {
				return fmt.Errorf("must specify a positive integer for log opt '%s': %v", key, v)
			}
		}
	}
	_, datetime := opts["awslogs-datetime-format"]
	_, multiline := opts["awslogs-multiline-pattern"]
	if datetime && multiline {
		return errors.New("you cannot configure log opt 'awslogs-datetime-format' and 'awslogs-multiline-pattern' at the same time")
	}
	if v := opts["awslogs-format"]; v != "" {
		if v != "json/emf" {
			return fmt.Errorf("unsupported log format '%s'", v)
		}
		if datetime || multiline {
			return errors.New("you cannot configure log opt 'awslogs-datetime-format' or 'awslogs-multiline-pattern' when log opt 'awslogs-format' is set to 'json/emf'")
		}
	}
	_, err := awsPattern(opts)
	return err
}

// awsTimes are the regular expressions of strftime's sequences.
var awsTimes = map[byte]string{
	'a': `(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)`, 'A': `(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day`, 'w': `[0-6]`,
	'd': `(?:0[1-9]|[12][0-9]|3[01])`, 'b': `(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)`,
	'B': `(?:January|February|March|April|May|June|July|August|September|October|November|December)`,
	'm': `(?:0[1-9]|1[0-2])`, 'Y': `\d{4}`, 'y': `\d{2}`, 'H': `(?:[01][0-9]|2[0-3])`, 'I': `(?:0[1-9]|1[0-2])`,
	'p': `[AP]M`, 'M': `[0-5][0-9]`, 'S': `[0-5][0-9]`, 'f': `\d{6}`, 'z': `[+-]\d{4}`, 'Z': `[A-Z]{1,4}T`,
	'j': `(?:00[1-9]|0[1-9][0-9]|[12][0-9]{2}|3[0-5][0-9]|36[0-6])`, 'L': `\.\d{3}`,
}

// awsPattern returns what the first line of an event matches, nil when each line
// is one.
func awsPattern(opts map[string]string) (*regexp.Regexp, error) {
	text := opts["awslogs-multiline-pattern"]
	if format := opts["awslogs-datetime-format"]; format != "" {
		var b strings.Builder
		for i := 0; i < len(format); i++ {
			if format[i] == '%' && i+1 < len(format) {
				i++
				b.WriteString(awsTimes[format[i]])
				continue
			}
			b.WriteByte(format[i])
		}
		text = b.String()
	}
	if text == "" {
		return nil, nil
	}
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, fmt.Errorf("awslogs could not parse multiline pattern key %q: %w", text, err)
	}
	return re, nil
}

// awslogs puts events to Amazon CloudWatch Logs.
type awslogs struct {
	client        *http.Client
	endpoint      string
	signer        awsSigner
	group, stream string
	emf           bool
	pattern       *regexp.Regexp
}

func openAWS(ctx context.Context, info Info) (delivery.Sink, error) {
	opts := info.Options
	stream := opts["awslogs-stream"]
	if stream == "" {
		var err error
		if stream, err = info.Tag("{{.FullID}}"); err != nil {
			return nil, err
		}
	}
	pattern, err := awsPattern(opts)
	if err != nil {
		return nil, err
	}
	a := &awslogs{
		client: &http.Client{Timeout: requestTimeout}, endpoint: opts["awslogs-endpoint"],
		group: opts["awslogs-group"], stream: stream, emf: opts["awslogs-format"] != "", pattern: pattern,
	}
	region := opts["awslogs-region"]
	if region == "" {
		region = os.Getenv("AWS_REGION")
	}
	if region == "" {
		if region, err = awsInstanceRegion(ctx, a.client); err != nil {
			return nil, fmt.Errorf("cannot determine region for awslogs driver: %w", err)
		}
	}
	if a.endpoint == "" {
		a.endpoint = "https://logs." + region + ".amazonaws.com/"
	}
	a.signer = awsSigner{region: region, service: "logs", credentials: awsCredentials{client: a.client, endpoint: opts["awslogs-credentials-endpoint"]}}
	create := true
	if v := opts["awslogs-create-stream"]; v != "" {
		create, _ = strconv.ParseBool(v)
	}
	if create {
		group, _ := strconv.ParseBool(opts["awslogs-create-group"])
		if err := a.create(ctx, group); err != nil {
			a.Close()
			return nil, err
		}
	}
	return a, nil
}

// create makes the stream, and the group if it is missing and may be made.
func (a *awslogs) create(ctx context.Context, group bool) error {
	names := map[string]string{"logGroupName": a.group, "logStreamName": a.stream}
	err := a.call(ctx, "CreateLogStream", names)
	if awsCode(err) == "ResourceNotFoundException" && group {
		err = a.call(ctx, "CreateLogGroup", map[string]string{"logGroupName": a.group})
		if err != nil && awsCode(err) != "ResourceAlreadyExistsException" {
			return fmt.Errorf("failed to create Cloudwatch log group: %w", err)
		}
		err = a.call(ctx, "CreateLogStream", names)
	}
	if err != nil && awsCode(err) != "ResourceAlreadyExistsException" {
		return fmt.Errorf("failed to create Cloudwatch log stream: %w", err)
	}
	return nil
}

// Close implements delivery.Sink.
func (a *awslogs) Close() error {
	a.client.CloseIdleConnections()
	return nil
}

type awsEvent struct {
	Message   string `json:"message"`
	Timestamp int64  `json:"timestamp"` // in milliseconds
}

// Send implements delivery.Sink. Events are put as a whole or not at all, so that
// after an error all entries are sent again.
func (a *awslogs) Send(ctx context.Context, entries []ctrlog.Entry) (int, error) {
	events := a.events(entries)
	slices.SortStableFunc(events, func(x, y awsEvent) int { return int(x.Timestamp - y.Timestamp) })
	for len(events) > 0 {
		n, size := 0, 0
		for n < min(len(events), awsPutEvents) {
			size += len(events[n].Message) + awsEventExtra
			if size > awsPutBytes && n > 0 {
				break
			}
			n++
		}
		err := a.call(ctx, "PutLogEvents", map[string]any{"logGroupName": a.group, "logStreamName": a.stream, "logEvents": events[:n]})
		if code := awsCode(err); err != nil && code != "DataAlreadyAcceptedException" {
			return 0, err
		}
		events = events[n:]
	}
	return len(entries), nil
}

// events joins lines as the pattern says and splits what is too long.
func (a *awslogs) events(entries []ctrlog.Entry) []awsEvent {
	var events []awsEvent
	var text []byte
	var at int64
	flush := func() {
		for len(text) > 0 {
			n := effectivePrefix(text, awsEventBytes)
			events = append(events, awsEvent{strings.ToValidUTF8(string(text[:n]), "\ufffd"), at})
			text = text[n:]
		}
		text = nil
	}
	for _, e := range entries {
		if len(e.Text) == 0 && a.pattern == nil {
			continue
		}
		whole := e.Partial.ID == "" || e.Partial.Ordinal == 1
		if a.pattern == nil || whole && a.pattern.Match(e.Text) {
			flush()
		}
		if len(text) == 0 {
			at = e.Time.UnixMilli()
		}
		text = append(text, e.Text...)
		if a.pattern != nil && (e.Partial.ID == "" || e.Partial.Last) {
			text = append(text, '\n')
		}
	}
	flush()
	return events
}

// effectivePrefix returns how many bytes at the start of text make at most limit
// bytes of UTF-8 when what is invalid is replaced.
func effectivePrefix(text []byte, limit int) int {
	size, n := 0, 0
	for n < len(text) {
		r, width := utf8.DecodeRune(text[n:])
		size += utf8.RuneLen(r)
		if size > limit {
			break
		}
		n += width
	}
	return n
}

// awsError is an error that the service answered.
type awsError struct {
	action, code, message string
}

// Error implements error.
func (e *awsError) Error() string { return e.action + ": " + e.code + ": " + e.message }

func awsCode(err error) string {
	if e, ok := errors.AsType[*awsError](err); ok {
		return e.code
	}
	return ""
}

func (a *awslogs) call(ctx context.Context, action string, input any) error {
	body, err := json.Marshal(input)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.endpoint, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if req.URL.Path == "" {
		req.URL.Path = "/"
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", "Logs_20140328."+action)
	if a.emf && action == "PutLogEvents" {
		req.Header.Set("x-amzn-logs-format", "json/emf")
	}
	if err := a.signer.sign(ctx, req, body, time.Now()); err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode == http.StatusOK {
		return err
	}
	var fault struct {
		Type     string `json:"__type"`
		Message  string `json:"message"`
		Message2 string `json:"Message"`
	}
	if json.Unmarshal(answer, &fault) != nil || fault.Type == "" {
		return &awsError{action, resp.Status, ""}
	}
	if i := strings.LastIndexByte(fault.Type, '#'); i >= 0 {
		fault.Type = fault.Type[i+1:]
	}
	return &awsError{action, fault.Type, fault.Message + fault.Message2}
}
