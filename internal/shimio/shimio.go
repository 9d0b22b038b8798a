// Package shimio is the joint between an engine and the shim for a process's
// input, output and log: the URI that an engine puts into the stdio fields of
// the Task API, and the protocol of the attach socket.
//
// # The URI
//
// containerd's Task API carries stdin, stdout and stderr as strings; a scheme
// says how they are meant (fifo path, "binary", "file"). This package adds
// "shimlog": the shim itself writes the log file and serves attach on a unix
// socket, so output is neither lost nor held up while no daemon runs. The URI
// stands in the stdout field alone; stdin and stderr are then empty.
//
// # The attach socket
//
// One socket per container serves its init process and its execs. A client
// connects and sends one line of JSON, a Request. The shim answers with one
// line of JSON, a Response; after Response.Error == "" the connection carries:
//
//	client -> shim   raw standard input, until the client half-closes
//	shim -> client   Request.Framed: stdcopy frames (the Engine API's
//	                 multiplexed stream); else raw bytes
//
// A client that attaches before the process starts receives the output from its
// first byte. The shim closes the connection when the process has exited and
// all of its output has been sent. Both lines are bounded by MaxLine.
package shimio

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
)

// Scheme is the URI scheme of Stdio.
const Scheme = "shimlog"

// MaxLine bounds the Request and the Response line, in bytes.
const MaxLine = 64 << 10

// Stdio says what the shim does with a process's input and output. The zero
// value discards output and gives /dev/null as input.
type Stdio struct {
	// Stdin opens an input pipe (with a terminal: the console takes input).
	Stdin bool
	// StdinOnce closes the input when the first client that attached to it
	// disconnects or half-closes.
	StdinOnce bool
	// AttachSocket is the absolute path of the container's attach socket. The
	// shim creates it, mode 0600, with the init process; it is empty for an
	// exec, which is served on the socket of its container.
	AttachSocket string
	// LogDriver is "json-file", "local" or "" for no log.
	LogDriver string
	// LogPath is the absolute path of the log file.
	LogPath string
	// LogMaxBytes is the size at which the log is rotated; 0 means never.
	LogMaxBytes int64
	// LogMaxFiles is how many files rotation keeps, the live one included; 0
	// means 1.
	LogMaxFiles int
	// LogCompress compresses rotated files with gzip.
	LogCompress bool
	// LogHold keeps the oldest file of the log from being rotated away: with
	// LogMaxFiles files full, writing waits until somebody has removed it or the
	// process has ended.
	LogHold bool
	// LogAttrs are attributes written into every json-file record.
	LogAttrs map[string]string
}

// String returns the URI for the stdout field of a Task API request.
func (s Stdio) String() string {
	q := url.Values{}
	set := func(key, value string) {
		if value != "" {
			q.Set(key, value)
		}
	}
	set("stdin", formatBool(s.Stdin))
	set("stdin-once", formatBool(s.StdinOnce))
	set("attach", s.AttachSocket)
	set("driver", s.LogDriver)
	set("path", s.LogPath)
	if s.LogMaxBytes != 0 {
		set("max-bytes", strconv.FormatInt(s.LogMaxBytes, 10))
	}
	if s.LogMaxFiles != 0 {
		set("max-files", strconv.Itoa(s.LogMaxFiles))
	}
	set("compress", formatBool(s.LogCompress))
	set("hold", formatBool(s.LogHold))
	for k, v := range s.LogAttrs {
		q.Set("attr."+k, v)
	}
	return (&url.URL{Scheme: Scheme, Path: "/", RawQuery: q.Encode()}).String()
}

// Is reports whether the stdout field of a Task API request holds a Stdio URI.
func Is(stdout string) bool {
	return len(stdout) > len(Scheme) && stdout[:len(Scheme)+1] == Scheme+":"
}

// Parse reverses String. An unknown key, a relative path or a malformed number
// is an error that names it.
func Parse(uri string) (Stdio, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return Stdio{}, fmt.Errorf("parse stdio URI: %w", err)
	}
	if u.Scheme != Scheme {
		return Stdio{}, fmt.Errorf("parse stdio URI: scheme %q is not %q", u.Scheme, Scheme)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Stdio{}, fmt.Errorf("parse stdio URI: %w", err)
	}
	var s Stdio
	for key, values := range q {
		value := values[0]
		switch {
		case key == "stdin":
			s.Stdin, err = strconv.ParseBool(value)
		case key == "stdin-once":
			s.StdinOnce, err = strconv.ParseBool(value)
		case key == "attach":
			s.AttachSocket, err = value, absolute(value)
		case key == "driver":
			s.LogDriver = value
		case key == "path":
			s.LogPath, err = value, absolute(value)
		case key == "max-bytes":
			s.LogMaxBytes, err = strconv.ParseInt(value, 10, 64)
		case key == "max-files":
			s.LogMaxFiles, err = strconv.Atoi(value)
		case key == "compress":
			s.LogCompress, err = strconv.ParseBool(value)
		case key == "hold":
			s.LogHold, err = strconv.ParseBool(value)
		case len(key) > len("attr.") && key[:len("attr.")] == "attr.":
			if s.LogAttrs == nil {
				s.LogAttrs = make(map[string]string)
			}
			s.LogAttrs[key[len("attr."):]] = value
		default:
			err = fmt.Errorf("unknown key")
		}
		if err != nil {
			return Stdio{}, fmt.Errorf("parse stdio URI: key %q: %w", key, err)
		}
	}
	return s, nil
}

func absolute(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("path %q is not absolute", path)
	}
	return nil
}

func formatBool(b bool) string {
	if b {
		return "1"
	}
	return ""
}
