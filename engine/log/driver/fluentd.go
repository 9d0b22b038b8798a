package driver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	ctrlog "lighter/engine/log"
	"lighter/engine/log/delivery"
)

var fluentdKeys = append([]string{
	"fluentd-address", "fluentd-async", "fluentd-async-reconnect-interval", "fluentd-buffer-limit",
	"fluentd-max-retries", "fluentd-request-ack", "fluentd-retry-wait", "fluentd-sub-second-precision",
	"fluentd-read-timeout", "fluentd-write-timeout",
}, attributeKeys...)

// fluentdConfig is the options, read.
type fluentdConfig struct {
	network, address string
	tls              bool
	retries          uint64
	retryWait        time.Duration
	ack, subSecond   bool
	read, write      time.Duration
}

func checkFluentd(opts map[string]string) error {
	_, err := parseFluentd(opts)
	return err
}

func parseFluentd(opts map[string]string) (fluentdConfig, error) {
	c := fluentdConfig{retryWait: time.Second}
	var err error
	if err = c.parseAddress(opts["fluentd-address"]); err != nil {
		return c, fmt.Errorf("invalid fluentd-address (%s): %w", opts["fluentd-address"], err)
	}
	if v := opts["fluentd-buffer-limit"]; v != "" {
		if _, err = units.RAMInBytes(v); err != nil {
			return c, err
		}
	}
	if v := opts["fluentd-retry-wait"]; v != "" {
		if c.retryWait, err = time.ParseDuration(v); err != nil {
			return c, err
		}
	}
	if v := opts["fluentd-max-retries"]; v != "" {
		if c.retries, err = strconv.ParseUint(v, 10, 32); err != nil {
			return c, err
		}
		if c.retries > math.MaxInt32 {
			return c, errors.New("invalid fluentd-max-retries: value out of range")
		}
	}
	if v := opts["fluentd-async"]; v != "" {
		if _, err = strconv.ParseBool(v); err != nil {
			return c, err
		}
	}
	if v := opts["fluentd-async-reconnect-interval"]; v != "" {
		const lowest, highest = 100 * time.Millisecond, 10 * time.Second
		d, err := time.ParseDuration(v)
		if err != nil {
			return c, fmt.Errorf("invalid value for fluentd-async-reconnect-interval: %w", err)
		}
		if d != 0 && (d < lowest || d > highest) {
			return c, fmt.Errorf("invalid value for fluentd-async-reconnect-interval: value (%q) must be between %s and %s", d, lowest, highest)
		}
		if d != 0 {
			c.retryWait = d
		}
	}
	for key, to := range map[string]*bool{"fluentd-sub-second-precision": &c.subSecond, "fluentd-request-ack": &c.ack} {
		if v := opts[key]; v != "" {
			if *to, err = strconv.ParseBool(v); err != nil {
				return c, err
			}
		}
	}
	for key, to := range map[string]*time.Duration{"fluentd-write-timeout": &c.write, "fluentd-read-timeout": &c.read} {
		if v := opts[key]; v != "" {
			if *to, err = time.ParseDuration(v); err != nil {
				return c, fmt.Errorf("invalid value for %s: value must be a duration: %w", key, err)
			}
			if *to < 0 {
				return c, fmt.Errorf("invalid value for %s: value must be a duration that is non-negative", key)
			}
		}
	}
	return c, nil
}

func (c *fluentdConfig) parseAddress(s string) error {
	const host, port = "127.0.0.1", "24224"
	c.network, c.address = "tcp", net.JoinHostPort(host, port)
	if s == "" {
		return nil
	}
	if _, _, ok := strings.Cut(s, "://"); !ok {
		s = "tcp://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return err
	}
	switch u.Scheme {
	case "unix":
		if strings.TrimLeft(u.Path, "/") == "" {
			return errors.New("path is empty")
		}
		c.network, c.address = "unix", u.Path
		return nil
	case "tcp", "tls":
		c.tls = u.Scheme == "tls"
	default:
		return fmt.Errorf("unsupported scheme: '%s'", u.Scheme)
	}
	if u.Path != "" {
		return errors.New("should not contain a path element")
	}
	h, p := u.Hostname(), u.Port()
	if h == "" {
		h = host
	}
	if p == "" {
		p = port
	} else if _, err := strconv.ParseUint(p, 10, 16); err != nil {
		return fmt.Errorf("invalid port: %w", err)
	}
	c.address = net.JoinHostPort(h, p)
	return nil
}

// fluentd speaks Fluentd's forward protocol, a message at a time.
type fluentd struct {
	*stream
	cfg    fluentdConfig
	in     *bufio.Reader
	tag    string
	fields map[string]string
}

func openFluentd(ctx context.Context, info Info) (delivery.Sink, error) {
	cfg, err := parseFluentd(info.Options)
	if err != nil {
		return nil, err
	}
	tag, err := info.Tag(defaultTag)
	if err != nil {
		return nil, err
	}
	f := &fluentd{cfg: cfg, tag: tag, fields: map[string]string{"container_id": info.ID, "container_name": "/" + info.Name}}
	maps.Copy(f.fields, info.Attributes(nil))
	for try := uint64(0); ; try++ {
		if err = f.connect(ctx); err == nil {
			return f, nil
		}
		if try >= cfg.retries || ctx.Err() != nil {
			return nil, err
		}
		select {
		case <-time.After(cfg.retryWait):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (f *fluentd) connect(ctx context.Context) (err error) {
	if f.cfg.tls {
		d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTimeout}, Config: &tls.Config{MinVersion: tls.VersionTLS12}}
		conn, err := d.DialContext(ctx, f.cfg.network, f.cfg.address)
		if err != nil {
			return err
		}
		f.stream = &stream{Conn: conn}
	} else if f.stream, err = dial(ctx, f.cfg.network, f.cfg.address); err != nil {
		return err
	}
	f.timeout = f.cfg.write
	f.in = bufio.NewReader(f.Conn)
	return nil
}

// Send implements delivery.Sink. Acknowledgement, if it was asked for, is of the
// last message: the receiver handles those of a connection in their order.
func (f *fluentd) Send(_ context.Context, entries []ctrlog.Entry) (int, error) {
	var buf []byte
	chunk := ""
	for i, e := range entries {
		option := map[string]string{}
		if f.cfg.ack && i == len(entries)-1 {
			var id [16]byte
			rand.Read(id[:]) // never fails: crypto/rand
			chunk = base64.StdEncoding.EncodeToString(id[:])
			option["chunk"] = chunk
		}
		buf = f.message(buf, e, option)
	}
	if err := f.write(buf); err != nil {
		return 0, err
	}
	if chunk == "" {
		return len(entries), nil
	}
	timeout := f.cfg.read
	if timeout == 0 {
		timeout = writeTimeout
	}
	if err := f.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return 0, err
	}
	got, err := readAck(f.in)
	if err == nil && got != chunk {
		err = fmt.Errorf("the receiver acknowledges %q instead of %q", got, chunk)
	}
	if err != nil {
		return 0, fmt.Errorf("read acknowledgement: %w", err)
	}
	return len(entries), nil
}

func (f *fluentd) message(buf []byte, e ctrlog.Entry, option map[string]string) []byte {
	record := maps.Clone(f.fields)
	record["source"] = "stdout"
	if e.Stderr {
		record["source"] = "stderr"
	}
	record["log"] = string(e.Text)
	if p := e.Partial; p.ID != "" {
		record["partial_message"] = "true"
		record["partial_id"] = p.ID
		record["partial_ordinal"] = strconv.Itoa(p.Ordinal)
		record["partial_last"] = strconv.FormatBool(p.Last)
	}
	buf = append(buf, 0x94) // array of four
	buf = packString(buf, f.tag)
	if f.cfg.subSecond { // an extension of type 0 and eight bytes
		buf = append(buf, 0xd7, 0)
		buf = binary.BigEndian.AppendUint32(buf, uint32(e.Time.Unix()))
		buf = binary.BigEndian.AppendUint32(buf, uint32(e.Time.Nanosecond()))
	} else {
		buf = binary.BigEndian.AppendUint64(append(buf, 0xd3), uint64(e.Time.Unix()))
	}
	return packMap(packMap(buf, record), option)
}

// packString and packMap encode MessagePack.
func packString(buf []byte, s string) []byte {
	switch n := len(s); {
	case n < 32:
		buf = append(buf, 0xa0|byte(n))
	case n < 1<<8:
		buf = append(buf, 0xd9, byte(n))
	case n < 1<<16:
		buf = binary.BigEndian.AppendUint16(append(buf, 0xda), uint16(n))
	default:
		buf = binary.BigEndian.AppendUint32(append(buf, 0xdb), uint32(n))
	}
	return append(buf, s...)
}

func packMap(buf []byte, m map[string]string) []byte {
	if len(m) < 16 {
		buf = append(buf, 0x80|byte(len(m)))
	} else {
		buf = binary.BigEndian.AppendUint16(append(buf, 0xde), uint16(len(m)))
	}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		buf = packString(packString(buf, key), m[key])
	}
	return buf
}

// readAck reads {"ack": chunk}.
func readAck(r *bufio.Reader) (string, error) {
	head, err := r.ReadByte()
	if err != nil {
		return "", err
	}
	if head != 0x81 {
		return "", errors.New("not a map of one key")
	}
	key, err := unpackString(r)
	if err != nil {
		return "", err
	}
	if !bytes.Equal([]byte(key), []byte("ack")) {
		return "", fmt.Errorf("key %q instead of \"ack\"", key)
	}
	return unpackString(r)
}

func unpackString(r *bufio.Reader) (string, error) {
	head, err := r.ReadByte()
	if err != nil {
		return "", err
	}
	n := 0
	switch {
	case head&0xe0 == 0xa0:
		n = int(head & 0x1f)
	case head == 0xd9:
		b, err := r.ReadByte()
		if err != nil {
			return "", err
		}
		n = int(b)
	default:
		return "", errors.New("not a short string")
	}
	buf := make([]byte, n)
	_, err = io.ReadFull(r, buf)
	return string(buf), err
}
