package server

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containerd/platforms"
)

// maxJSONBody bounds a JSON request body, in bytes.
const maxJSONBody = 8 << 20

// request is an HTTP request with what the router knows of it.
type request struct {
	*http.Request
	version apiVersion
	vars    map[string]string
	query   url.Values
}

// apiVersion is a parsed "major.minor".
type apiVersion struct{ major, minor int }

func parseVersion(s string) (apiVersion, bool) {
	major, minor, ok := strings.Cut(s, ".")
	if !ok {
		return apiVersion{}, false
	}
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	return apiVersion{a, b}, err1 == nil && err2 == nil
}

func mustVersion(s string) apiVersion {
	v, ok := parseVersion(s)
	if !ok {
		panic("malformed API version constant " + s)
	}
	return v
}

func (v apiVersion) before(o apiVersion) bool {
	return v.major < o.major || v.major == o.major && v.minor < o.minor
}

// atLeast reports whether the client speaks API 1.minor or newer.
func (r *request) atLeast(minor int) bool { return !r.version.before(apiVersion{1, minor}) }

// flag reads a boolean query parameter: all but "", 0, no, false and none is
// true, as the Engine API has it.
func (r *request) flag(key string) bool { return isTrue(r.query.Get(key)) }

func (r *request) flagOr(key string, absent bool) bool {
	if !r.query.Has(key) {
		return absent
	}
	return r.flag(key)
}

func isTrue(s string) bool {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// seconds reads an optional whole number of seconds; nil when absent.
func (r *request) seconds(key string) (*int, error) {
	value := r.query.Get(key)
	if value == "" {
		return nil, nil
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		return nil, invalid("invalid value for %q: %q is not a number of seconds", key, value)
	}
	return &n, nil
}

// time reads a Unix time in seconds with an optional fraction of up to nine
// digits; the zero Time when absent or zero.
func (r *request) time(key string) (time.Time, error) {
	value := r.query.Get(key)
	if value == "" || value == "0" {
		return time.Time{}, nil
	}
	sec, frac, _ := strings.Cut(value, ".")
	s, err := strconv.ParseInt(sec, 10, 64)
	if err != nil {
		return time.Time{}, invalid("invalid value for %q: %q is not a Unix time", key, value)
	}
	var nanos int64
	if frac != "" {
		if len(frac) > 9 {
			frac = frac[:9]
		}
		n, err := strconv.ParseUint(frac, 10, 32)
		if err != nil {
			return time.Time{}, invalid("invalid value for %q: %q is not a Unix time", key, value)
		}
		nanos = int64(n)
		for range 9 - len(frac) {
			nanos *= 10
		}
	}
	return time.Unix(s, nanos), nil
}

// filters decodes the filters parameter: a JSON object of either
// key -> {value: true} or, from old clients, key -> [values].
func (r *request) filters() (map[string]map[string]bool, error) {
	return parseFilters(r.query.Get("filters"))
}

func parseFilters(raw string) (map[string]map[string]bool, error) {
	if raw == "" {
		return nil, nil
	}
	var byValue map[string]map[string]bool
	if err := json.Unmarshal([]byte(raw), &byValue); err == nil {
		return byValue, nil
	}
	var lists map[string][]string
	if err := json.Unmarshal([]byte(raw), &lists); err != nil {
		return nil, invalid("invalid filter")
	}
	byValue = make(map[string]map[string]bool, len(lists))
	for key, values := range lists {
		set := make(map[string]bool, len(values))
		for _, v := range values {
			set[v] = true
		}
		byValue[key] = set
	}
	return byValue, nil
}

// platform reads a platform parameter written as os/arch/variant; nil when
// absent.
func (r *request) platform() (*ocispec.Platform, error) {
	value := r.query.Get("platform")
	if value == "" {
		return nil, nil
	}
	p, err := platforms.Parse(value)
	if err != nil {
		return nil, invalid("%v", err)
	}
	return &p, nil
}

// platformJSON reads a platform parameter written as an OCI platform object.
func (r *request) platformJSON() (*ocispec.Platform, error) {
	value := r.query.Get("platform")
	if value == "" {
		return nil, nil
	}
	var p ocispec.Platform
	if err := json.Unmarshal([]byte(value), &p); err != nil {
		return nil, invalid("failed to parse platform: %v", err)
	}
	if p.OS == "" || p.Architecture == "" {
		return nil, invalid("both OS and Architecture must be provided")
	}
	return &p, nil
}

// registryAuth decodes X-Registry-Auth; a malformed value counts as none, which
// is what clients rely on.
func (r *request) registryAuth() *registry.AuthConfig {
	value := r.Header.Get("X-Registry-Auth")
	if value == "" {
		return nil
	}
	raw, err := base64.URLEncoding.DecodeString(value)
	if err != nil {
		if raw, err = base64.RawURLEncoding.DecodeString(value); err != nil {
			return nil
		}
	}
	var auth registry.AuthConfig
	if json.Unmarshal(raw, &auth) != nil {
		return nil
	}
	return &auth
}

// decode reads the JSON body into v. With optional an empty body leaves v alone.
// What follows an error is read too, up to a bound: clients send the whole body
// before they look for a response, and a connection that is closed under them
// would hide the error.
func (r *request) decode(v any, optional bool) error {
	if r.ContentLength == 0 && optional {
		return nil
	}
	err := r.decodeBody(v, optional)
	if err != nil {
		_, _ = io.CopyN(io.Discard, r.Body, maxJSONBody)
	}
	return err
}

func (r *request) decodeBody(v any, optional bool) error {
	if ct := r.Header.Get("Content-Type"); ct != "" || r.ContentLength > 0 {
		media, _, err := mime.ParseMediaType(ct)
		switch {
		case err != nil:
			return invalid("malformed Content-Type header (%s): %v", ct, err)
		case media != "application/json":
			return invalid("unsupported Content-Type header (%s): must be 'application/json'", ct)
		}
	}
	body := &io.LimitedReader{R: r.Body, N: maxJSONBody + 1}
	dec := json.NewDecoder(body)
	if err := dec.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			if optional {
				return nil
			}
			return invalid("invalid JSON: EOF")
		}
		if body.N <= 0 {
			return invalid("request body is larger than %d bytes", maxJSONBody)
		}
		return invalid("invalid JSON: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return invalid("unexpected content after JSON")
	}
	return nil
}

// writeJSON sends v with the status.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write response: %w", err)
	}
	return nil
}
