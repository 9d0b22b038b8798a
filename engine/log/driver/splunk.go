package driver

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"time"

	ctrlog "lighter/engine/log"
	"lighter/engine/log/delivery"
)

var splunkKeys = append([]string{
	"splunk-url", "splunk-token", "splunk-source", "splunk-sourcetype", "splunk-index", "splunk-capath", "splunk-caname",
	"splunk-insecureskipverify", "splunk-format", "splunk-verify-connection", "splunk-gzip", "splunk-gzip-level",
	"splunk-index-acknowledgment",
}, attributeKeys...)

const (
	splunkBatch    = 1000 // events of one request
	requestTimeout = 30 * time.Second
	maxAnswer      = 64 << 10 // bytes that are read of a receiver's answer
)

// splunk posts events to Splunk's HTTP event collector.
type splunk struct {
	client  *http.Client
	url     string
	token   string
	channel string // of indexer acknowledgement; "" for none
	format  string
	level   int // of gzip; noGzip for none
	host    string
	opts    map[string]string
	tag     string
	attrs   map[string]string
}

const noGzip = -100

func checkSplunk(opts map[string]string) error {
	_, err := parseSplunk(opts)
	return err
}

func splunkURL(opts map[string]string) (string, error) {
	raw, ok := opts["splunk-url"]
	if !ok {
		return "", errors.New("splunk: splunk-url is expected")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", fmt.Errorf("splunk: failed to parse %s as url value in splunk-url", raw)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return "", errors.New("splunk: expected format scheme://dns_name_or_ip:port for splunk-url")
	}
	u.Path = "/services/collector/event/1.0"
	return u.String(), nil
}

// parseSplunk reads the options; the files that they name are opened by
// openSplunk.
func parseSplunk(opts map[string]string) (*splunk, error) {
	s := &splunk{opts: opts, format: "inline", level: noGzip}
	var err error
	if s.url, err = splunkURL(opts); err != nil {
		return nil, err
	}
	token, ok := opts["splunk-token"]
	if !ok {
		return nil, errors.New("splunk: splunk-token is expected")
	}
	s.token = token
	zip, ack := false, false
	for key, to := range map[string]*bool{
		"splunk-gzip": &zip, "splunk-index-acknowledgment": &ack,
		"splunk-insecureskipverify": new(bool), "splunk-verify-connection": new(bool),
	} {
		if v, ok := opts[key]; ok {
			if *to, err = strconv.ParseBool(v); err != nil {
				return nil, err
			}
		}
	}
	level := gzip.DefaultCompression
	if v, ok := opts["splunk-gzip-level"]; ok {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil {
			return nil, err
		}
		if level = int(n); level < gzip.DefaultCompression || level > gzip.BestCompression {
			return nil, fmt.Errorf("not supported level '%s' for splunk-gzip-level (supported values between %d and %d)", v, gzip.DefaultCompression, gzip.BestCompression)
		}
	}
	if zip {
		s.level = level
	}
	if ack {
		var id [16]byte
		rand.Read(id[:])                                // never fails: crypto/rand
		id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // a random UUID
		h := hex.EncodeToString(id[:])                  //
		s.channel = h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
	}
	if v, ok := opts["splunk-format"]; ok {
		if v != "inline" && v != "json" && v != "raw" {
			return nil, fmt.Errorf("unknown format specified %s, supported formats are inline, json and raw", v)
		}
		s.format = v
	}
	return s, nil
}

func openSplunk(ctx context.Context, info Info) (delivery.Sink, error) {
	s, err := parseSplunk(info.Options)
	if err != nil {
		return nil, err
	}
	s.host, s.attrs = info.Hostname, info.Attributes(nil)
	if v, ok := info.Options["tag"]; !ok || v != "" {
		if s.tag, err = info.Tag(defaultTag); err != nil {
			return nil, err
		}
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: info.Options["splunk-caname"]}
	cfg.InsecureSkipVerify, _ = strconv.ParseBool(info.Options["splunk-insecureskipverify"])
	if path, ok := info.Options["splunk-capath"]; ok {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = x509.NewCertPool()
		cfg.RootCAs.AppendCertsFromPEM(pem)
	}
	s.client = &http.Client{
		Transport: &http.Transport{TLSClientConfig: cfg, Proxy: http.ProxyFromEnvironment},
		Timeout:   requestTimeout,
	}
	if v, ok := info.Options["splunk-verify-connection"]; ok {
		if yes, _ := strconv.ParseBool(v); !yes {
			return s, nil
		}
	}
	if err := s.verify(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *splunk) verify(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodOptions, s.url, nil)
	if err != nil {
		return err
	}
	return s.do(req, "failed to verify connection")
}

func (s *splunk) do(req *http.Request, what string) error {
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("splunk: %s - %s - %s", what, resp.Status, body[:min(len(body), 1024)])
	}
	return err
}

// Close implements delivery.Sink.
func (s *splunk) Close() error {
	s.client.CloseIdleConnections()
	return nil
}

// Send implements delivery.Sink.
func (s *splunk) Send(ctx context.Context, entries []ctrlog.Entry) (int, error) {
	sent := 0
	for part := range slices.Chunk(entries, splunkBatch) {
		if err := s.post(ctx, part); err != nil {
			return sent, err
		}
		sent += len(part)
	}
	return sent, nil
}

func (s *splunk) post(ctx context.Context, entries []ctrlog.Entry) error {
	var body bytes.Buffer
	var out io.Writer = &body
	var z *gzip.Writer
	if s.level != noGzip {
		var err error
		if z, err = gzip.NewWriterLevel(&body, s.level); err != nil {
			return err
		}
		out = z
	}
	enc := json.NewEncoder(out)
	events := 0
	for _, e := range entries {
		event, ok := s.event(e)
		if !ok {
			continue
		}
		events++
		if err := enc.Encode(event); err != nil {
			return err
		}
	}
	if events == 0 {
		return nil
	}
	if z != nil {
		if err := z.Close(); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, &body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Splunk "+s.token)
	if z != nil {
		req.Header.Set("Content-Encoding", "gzip")
	}
	if s.channel != "" {
		req.Header.Set("X-Splunk-Request-Channel", s.channel)
	}
	return s.do(req, "failed to send event")
}

// splunkEvent is an event of the collector.
type splunkEvent struct {
	Event      any    `json:"event"`
	Time       string `json:"time"`
	Host       string `json:"host"`
	Source     string `json:"source,omitempty"`
	SourceType string `json:"sourcetype,omitempty"`
	Index      string `json:"index,omitempty"`
}

type splunkLine struct {
	Line   any               `json:"line"`
	Source string            `json:"source"`
	Tag    string            `json:"tag,omitempty"`
	Attrs  map[string]string `json:"attrs,omitempty"`
}

// event returns what is sent for e; nothing for an empty line in raw format.
func (s *splunk) event(e ctrlog.Entry) (splunkEvent, bool) {
	ev := splunkEvent{
		Time: fmt.Sprintf("%f", float64(e.Time.UnixNano())/float64(time.Second)), Host: s.host,
		Source: s.opts["splunk-source"], SourceType: s.opts["splunk-sourcetype"], Index: s.opts["splunk-index"],
	}
	if s.format == "raw" {
		if len(bytes.Fields(e.Text)) == 0 {
			return ev, false
		}
		text := ""
		if s.tag != "" {
			text = s.tag + " "
		}
		for _, key := range slices.Sorted(maps.Keys(s.attrs)) {
			text += key + "=" + s.attrs[key] + " "
		}
		ev.Event = text + string(e.Text)
		return ev, true
	}
	line := splunkLine{Line: string(e.Text), Source: "stdout", Tag: s.tag, Attrs: s.attrs}
	if e.Stderr {
		line.Source = "stderr"
	}
	if s.format == "json" && json.Valid(e.Text) {
		line.Line = json.RawMessage(e.Text)
	}
	ev.Event = line
	return ev, true
}
