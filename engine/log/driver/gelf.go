package driver

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"strconv"
	"time"

	ctrlog "lighter/engine/log"
	"lighter/engine/log/delivery"
)

var gelfKeys = append([]string{
	"gelf-address", "gelf-compression-level", "gelf-compression-type", "gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay",
}, attributeKeys...)

func gelfAddress(s string) (*url.URL, error) {
	if s == "" {
		return nil, errors.New("gelf-address is a required parameter")
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "udp" && u.Scheme != "tcp" {
		return nil, errors.New("gelf: endpoint needs to be TCP or UDP")
	}
	if _, _, err := net.SplitHostPort(u.Host); err != nil {
		return nil, errors.New("gelf: please provide gelf-address as proto://host:port")
	}
	return u, nil
}

func checkGELF(opts map[string]string) error {
	u, err := gelfAddress(opts["gelf-address"])
	if err != nil {
		return err
	}
	for key, v := range opts {
		switch key {
		case "gelf-compression-level":
			if u.Scheme != "udp" {
				return errors.New("compression is only supported on UDP")
			}
			if n, err := strconv.Atoi(v); err != nil || n < flate.DefaultCompression || n > flate.BestCompression {
				return fmt.Errorf("unknown value %q for log opt %q for gelf log driver", v, key)
			}
		case "gelf-compression-type":
			if u.Scheme != "udp" {
				return errors.New("compression is only supported on UDP")
			}
			if v != "gzip" && v != "zlib" && v != "none" {
				return fmt.Errorf("unknown value %q for log opt %q for gelf log driver", v, key)
			}
		case "gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay":
			if u.Scheme != "tcp" {
				return fmt.Errorf("%q is only valid for TCP", key)
			}
			if n, err := strconv.Atoi(v); err != nil || n < 0 {
				return fmt.Errorf("%q must be a positive integer", key)
			}
		}
	}
	return nil
}

// gelf sends GELF 1.1 messages, chunked over UDP or ended by a zero over TCP.
type gelf struct {
	*stream
	udp         bool
	compression string
	level       int
	fields      map[string]any
}

func openGELF(ctx context.Context, info Info) (delivery.Sink, error) {
	u, err := gelfAddress(info.Options["gelf-address"])
	if err != nil {
		return nil, err
	}
	tag, err := info.Tag(defaultTag)
	if err != nil {
		return nil, err
	}
	g := &gelf{udp: u.Scheme == "udp", compression: info.Options["gelf-compression-type"], level: flate.BestSpeed}
	if v := info.Options["gelf-compression-level"]; v != "" {
		if g.level, err = strconv.Atoi(v); err != nil {
			return nil, fmt.Errorf("gelf: invalid compression level %s, err %w", v, err)
		}
	}
	g.fields = map[string]any{
		"version": "1.1", "host": info.Hostname,
		"_container_id": info.ID, "_container_name": info.Name, "_image_id": info.ImageID, "_image_name": info.ImageName,
		"_command": info.Command, "_tag": tag, "_created": info.Created,
	}
	for k, v := range info.Attributes(func(key string) string {
		if key != "" && key[0] == '_' {
			return key
		}
		return "_" + key
	}) {
		g.fields[k] = v
	}
	if g.stream, err = dialGELF(ctx, u, info.Options); err != nil {
		return nil, fmt.Errorf("gelf: cannot connect to GELF endpoint: %s %w", u.Host, err)
	}
	return g, nil
}

// dialGELF tries as often, and waits in between as long, as the options say.
func dialGELF(ctx context.Context, u *url.URL, opts map[string]string) (*stream, error) {
	tries, delay := 0, time.Second
	if n, err := strconv.Atoi(opts["gelf-tcp-max-reconnect"]); err == nil {
		tries = n
	}
	if n, err := strconv.Atoi(opts["gelf-tcp-reconnect-delay"]); err == nil {
		delay = time.Duration(n) * time.Second
	}
	for {
		s, err := dial(ctx, u.Scheme, u.Host)
		if err == nil || tries == 0 {
			return s, err
		}
		tries--
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Send implements delivery.Sink. The protocol has no answer: what is written
// counts as delivered.
func (g *gelf) Send(_ context.Context, entries []ctrlog.Entry) (int, error) {
	var buf []byte
	for i, e := range entries {
		if len(e.Text) == 0 {
			continue
		}
		msg, err := g.message(e)
		if err != nil {
			return i, err
		}
		if g.udp {
			if err := g.sendChunks(msg); err != nil {
				return i, fmt.Errorf("gelf: cannot send GELF message: %w", err)
			}
			continue
		}
		buf = append(append(buf, msg...), 0)
	}
	if len(buf) > 0 {
		if err := g.write(buf); err != nil {
			return 0, fmt.Errorf("gelf: cannot send GELF message: %w", err)
		}
	}
	return len(entries), nil
}

func (g *gelf) message(e ctrlog.Entry) ([]byte, error) {
	m := maps.Clone(g.fields)
	m["short_message"] = string(e.Text)
	m["timestamp"] = float64(e.Time.UnixMilli()) / 1000
	m["level"] = severityInfo
	if e.Stderr {
		m["level"] = severityError
	}
	return json.Marshal(m)
}

// The chunks of a UDP message: a header of twelve bytes, 1420 bytes in all.
const (
	gelfChunk     = 1420
	gelfHeader    = 12
	gelfMaxChunks = 128
)

func (g *gelf) sendChunks(msg []byte) error {
	var zipped bytes.Buffer
	var z io.WriteCloser
	var err error
	switch g.compression {
	case "none":
	case "zlib":
		z, err = zlib.NewWriterLevel(&zipped, g.level)
	default:
		z, err = gzip.NewWriterLevel(&zipped, g.level)
	}
	if err != nil {
		return err
	}
	if z != nil {
		if _, err := z.Write(msg); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return err
		}
		msg = zipped.Bytes()
	}
	if len(msg) <= gelfChunk {
		return g.write(msg)
	}
	const room = gelfChunk - gelfHeader
	count := (len(msg) + room - 1) / room
	if count > gelfMaxChunks {
		return fmt.Errorf("msg too large, would need %d chunks", count)
	}
	var id [8]byte
	rand.Read(id[:]) // never fails: crypto/rand
	for n := range count {
		chunk := append([]byte{0x1e, 0x0f}, id[:]...)
		chunk = append(chunk, byte(n), byte(count))
		if err := g.write(append(chunk, msg[n*room:min((n+1)*room, len(msg))]...)); err != nil {
			return err
		}
	}
	return nil
}
