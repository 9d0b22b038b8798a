// Package driver is Docker's log drivers: what their options mean, which file the
// shim writes for each, and how the remote ones send entries to their receivers.
//
// json-file and local are files that the shim writes. For every other driver but
// none the shim writes a file in the format of local, which docker logs reads and
// package delivery takes the entries from.
package driver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"

	"lighter/engine/log/delivery"
)

// Info is what a driver knows of a container.
type Info struct {
	ID, Name   string // Name is without a slash
	ImageID    string
	ImageName  string
	Command    string // with its arguments
	Created    time.Time
	Env        []string
	Labels     map[string]string
	Hostname   string // of this machine
	Options    map[string]string
	Path       string // of the container's program, without arguments
	Args       []string
	DaemonName string
}

// remote is a driver that sends entries somewhere.
type remote struct {
	keys    []string // its options, without those that all have
	unknown string   // format of the error for another option
	check   func(opts map[string]string) error
	open    func(ctx context.Context, info Info) (delivery.Sink, error)
}

// attributeKeys are the options that add something of the container to entries.
var attributeKeys = []string{"labels", "labels-regex", "env", "env-regex", "tag"}

// remotes returns the remote drivers by name.
func remotes() map[string]remote {
	return map[string]remote{
		"syslog":   {syslogKeys, "unknown log opt '%s' for syslog log driver", checkSyslog, openSyslog},
		"journald": {attributeKeys, "unknown log opt '%s' for journald log driver", noCheck, openJournald},
		"fluentd":  {fluentdKeys, "unknown log opt '%s' for fluentd log driver", checkFluentd, openFluentd},
		"gelf":     {gelfKeys, "unknown log opt %q for gelf log driver", checkGELF, openGELF},
		"splunk":   {splunkKeys, "unknown log opt '%s' for splunk log driver", checkSplunk, openSplunk},
		"awslogs":  {awsKeys, "unknown log opt '%s' for awslogs log driver", checkAWS, openAWS},
		"gcplogs":  {gcpKeys, "%q is not a valid option for the gcplogs driver", noCheck, openGCP},
	}
}

func noCheck(map[string]string) error { return nil }

// Names returns the names of all drivers, sorted.
func Names() []string {
	return slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(remotes())), "json-file", "local", "none")))
}

// File is the log that the shim writes for a container.
type File struct {
	Format   string // "json-file" or "local"; "" for no file
	MaxBytes int64  // 0 for no rotation
	MaxFiles int
	Compress bool
	// Readable is whether docker logs may show it.
	Readable bool
	// Remote is whether its entries are delivered, and Blocking that none may be
	// rotated away before.
	Remote, Blocking bool
}

// Defaults of the format local, for the driver of that name and for the cache of
// the remote ones.
const (
	localBytes = 20 * 1000 * 1000
	localFiles = 5
)

// cachePrefix starts the options of the cache that every remote driver has.
const cachePrefix = "cache-"

// minLimited is the least size of a file that Limit makes, in bytes.
const minLimited = 64 << 10

// Limit returns f with at most limit bytes in all its files; 0 is no limit.
func (f File) Limit(limit int64) File {
	if limit <= 0 || f.Format == "" || f.MaxBytes > 0 && f.MaxBytes <= limit/int64(f.MaxFiles) {
		return f
	}
	f.MaxFiles = max(f.MaxFiles, 2)
	f.MaxBytes = max(limit/int64(f.MaxFiles), minLimited)
	return f
}

// Check validates a driver's options. Errors are InvalidArgument with Docker's
// texts.
func Check(name string, opts map[string]string) error {
	_, err := FileOf(name, opts)
	return err
}

// FileOf validates a driver's options and returns the file they ask for.
func FileOf(name string, opts map[string]string) (File, error) {
	f, err := fileOf(name, opts)
	if err != nil {
		return File{}, errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	return f, nil
}

func fileOf(name string, opts map[string]string) (File, error) {
	if name == "none" {
		return File{}, nil
	}
	nonBlocking := false
	switch mode := opts["mode"]; mode {
	case "", "blocking":
	case "non-blocking":
		nonBlocking = true
	default:
		return File{}, fmt.Errorf("logger: logging mode not supported: %s", mode)
	}
	buffer := int64(0)
	if s, ok := opts["max-buffer-size"]; ok {
		if !nonBlocking {
			return File{}, errors.New("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
		}
		var err error
		if buffer, err = units.RAMInBytes(s); err != nil {
			return File{}, fmt.Errorf("error parsing option max-buffer-size: %w", err)
		}
	}
	disabled := false
	if v := opts[cachePrefix+"disabled"]; v != "" {
		var err error
		if disabled, err = strconv.ParseBool(v); err != nil {
			return File{}, fmt.Errorf("invalid value for option cache-disabled: %s", v)
		}
	}
	own := map[string]string{}
	cache := map[string]string{}
	for key, value := range opts {
		switch {
		case key == "mode" || key == "max-buffer-size" || key == cachePrefix+"disabled":
		case key == "cache-max-size" || key == "cache-max-file" || key == "cache-compress":
			cache[strings.TrimPrefix(key, cachePrefix)] = value
		default:
			own[key] = value
		}
	}
	if err := checkAttributes(own); err != nil {
		return File{}, err
	}
	switch name {
	case "json-file":
		return jsonFile(own)
	case "local":
		return localFile(own)
	}
	r, ok := remotes()[name]
	if !ok {
		return File{}, fmt.Errorf("logger: no log driver named '%s' is registered", name)
	}
	for _, key := range slices.Sorted(maps.Keys(own)) {
		if !slices.Contains(r.keys, key) {
			return File{}, fmt.Errorf(r.unknown, key)
		}
	}
	if err := r.check(own); err != nil {
		return File{}, err
	}
	f, err := localFile(cache)
	if err != nil {
		return File{}, err
	}
	f.Remote, f.Readable, f.Blocking = true, !disabled, !nonBlocking
	// What rotation keeps is the buffer of the delivery as well.
	f.MaxFiles = max(f.MaxFiles, 2, 1+int((buffer+f.MaxBytes-1)/f.MaxBytes))
	return f, nil
}

// checkAttributes validates the options that are alike for all drivers.
func checkAttributes(opts map[string]string) error {
	for _, key := range []string{"labels-regex", "env-regex"} {
		if _, err := regexp.Compile(opts[key]); err != nil {
			return err
		}
	}
	if _, err := template.New("log-tag").Funcs(tagFunctions()).Parse(opts["tag"]); err != nil {
		return err
	}
	return nil
}

func jsonFile(opts map[string]string) (File, error) {
	for _, key := range slices.Sorted(maps.Keys(opts)) {
		if key != "max-size" && key != "max-file" && key != "compress" && !slices.Contains(attributeKeys, key) {
			return File{}, fmt.Errorf("unknown log opt '%s' for json-file log driver", key)
		}
	}
	f := File{Format: "json-file", MaxFiles: 1, Readable: true}
	if v, ok := opts["max-size"]; ok && v != "-1" {
		n, err := units.FromHumanSize(v)
		if err != nil {
			return File{}, err
		}
		if n <= 0 {
			return File{}, errors.New("max-size must be a positive number")
		}
		f.MaxBytes = n
	}
	if v, ok := opts["max-file"]; ok {
		n, err := strconv.Atoi(v)
		if err != nil {
			return File{}, err
		}
		if n < 1 {
			return File{}, errors.New("max-file cannot be less than 1")
		}
		f.MaxFiles = n
	}
	if v, ok := opts["compress"]; ok {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return File{}, err
		}
		if b && (f.MaxFiles == 1 || f.MaxBytes == 0) {
			return File{}, errors.New("compress cannot be true when max-file is less than 2 or max-size is not set")
		}
		f.Compress = b
	}
	return f, nil
}

func localFile(opts map[string]string) (File, error) {
	f := File{Format: "local", MaxBytes: localBytes, MaxFiles: localFiles, Compress: true, Readable: true}
	for _, key := range slices.Sorted(maps.Keys(opts)) {
		v := opts[key]
		switch key {
		case "max-size":
			n, err := units.FromHumanSize(v)
			if err != nil {
				return File{}, fmt.Errorf("invalid value for max-size: %s: %w", v, err)
			}
			if n <= 0 {
				return File{}, errors.New("max size should be a positive number")
			}
			f.MaxBytes = n
		case "max-file":
			n, err := strconv.Atoi(v)
			if err != nil {
				return File{}, fmt.Errorf("invalid value for max-file: %s: %w", v, err)
			}
			if n < 1 {
				return File{}, errors.New("max file count cannot be less than 0")
			}
			f.MaxFiles = n
		case "compress":
			b, err := strconv.ParseBool(v)
			if err != nil {
				return File{}, fmt.Errorf("error reading compress log option: %w", err)
			}
			f.Compress = b
		default:
			return File{}, fmt.Errorf("unknown log opt '%s' for log driver local", key)
		}
	}
	if f.MaxFiles == 1 {
		if opts["compress"] != "" && f.Compress {
			return File{}, errors.New("compression cannot be enabled when max file count is 1")
		}
		f.Compress = false
	}
	return f, nil
}

// Open connects to the receiver of a remote driver.
func Open(ctx context.Context, name string, info Info) (delivery.Sink, error) {
	r, ok := remotes()[name]
	if !ok {
		return nil, fmt.Errorf("open log driver: %q is not a remote one: %w", name, errdefs.ErrInvalidArgument)
	}
	return r.open(ctx, info)
}

// Configure sets how the entries for a driver are put together.
func Configure(cfg *delivery.Config, name string, opts map[string]string) {
	switch name {
	case "fluentd":
		if n, err := units.RAMInBytes(opts["fluentd-buffer-limit"]); err == nil {
			cfg.BatchBytes = int(min(max(n, 1), 16<<20))
		}
	case "awslogs":
		cfg.Linger, cfg.MaxEntries, cfg.BatchBytes = awsFlush, awsMaxBuffered, awsPutBytes
		if n, err := strconv.Atoi(opts["awslogs-force-flush-interval-seconds"]); err == nil {
			cfg.Linger = time.Duration(n) * time.Second
		}
		if n, err := strconv.Atoi(opts["awslogs-max-buffered-events"]); err == nil {
			cfg.MaxEntries = n
		}
	}
}

// MustReach reports whether a container does not start while the receiver of its
// remote driver cannot be reached.
func MustReach(name string, opts map[string]string) bool {
	if name == "fluentd" {
		async, _ := strconv.ParseBool(opts["fluentd-async"])
		return !async
	}
	return true
}

// Attributes returns what the options labels and env, and their regular
// expressions, take from the container, with its keys changed by rename unless
// that is nil.
func (i *Info) Attributes(rename func(string) string) map[string]string {
	attrs := map[string]string{}
	add := func(k, v string) {
		if rename != nil {
			k = rename(k)
		}
		attrs[k] = v
	}
	env := map[string]string{}
	for _, e := range i.Env {
		if k, v, ok := strings.Cut(e, "="); ok {
			env[k] = v
		}
	}
	for _, source := range []struct {
		values      map[string]string
		list, regex string
	}{{i.Labels, i.Options["labels"], i.Options["labels-regex"]}, {env, i.Options["env"], i.Options["env-regex"]}} {
		for key := range strings.SplitSeq(source.list, ",") {
			if v, ok := source.values[key]; ok {
				add(key, v)
			}
		}
		if source.regex == "" {
			continue
		}
		re, err := regexp.Compile(source.regex)
		if err != nil {
			continue // Check refuses it
		}
		for k, v := range source.values {
			if re.MatchString(k) {
				add(k, v)
			}
		}
	}
	return attrs
}

const defaultTag = "{{.ID}}"

// Tag expands the option tag, or def without one.
func (i *Info) Tag(def string) (string, error) {
	text := i.Options["tag"]
	if text == "" {
		text = def
	}
	t, err := template.New("log-tag").Funcs(tagFunctions()).Parse(text)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	if err := t.Execute(&out, &tagFields{i}); err != nil {
		return "", err
	}
	return out.String(), nil
}

// tagFields is what a tag's template may use.
type tagFields struct{ i *Info }

// ID and the rest are the template's names.
func (t *tagFields) ID() string     { return t.i.ID[:min(12, len(t.i.ID))] }
func (t *tagFields) FullID() string { return t.i.ID }
func (t *tagFields) Name() string   { return t.i.Name }
func (t *tagFields) ImageID() string {
	// Docker compatibility: twelve bytes of the whole ID, "sha256:" included.
	return t.i.ImageID[:min(12, len(t.i.ImageID))]
}

func (t *tagFields) ImageFullID() string { return t.i.ImageID }
func (t *tagFields) ImageName() string   { return t.i.ImageName }
func (t *tagFields) Command() string     { return t.i.Command }
func (t *tagFields) DaemonName() string  { return t.i.DaemonName }
func (t *tagFields) Hostname() (string, error) {
	return os.Hostname()
}

// The fields of Docker's own structure, which templates have used too.
func (t *tagFields) ContainerID() string         { return t.i.ID }
func (t *tagFields) ContainerName() string       { return "/" + t.i.Name }
func (t *tagFields) ContainerEntrypoint() string { return t.i.Path }
func (t *tagFields) ContainerArgs() []string     { return t.i.Args }
func (t *tagFields) ContainerImageID() string    { return t.i.ImageID }
func (t *tagFields) ContainerImageName() string  { return t.i.ImageName }
func (t *tagFields) ContainerEnv() []string      { return t.i.Env }
func (t *tagFields) ContainerLabels() map[string]string {
	return t.i.Labels
}

// ExtraAttributes is known to templates too.
func (t *tagFields) ExtraAttributes(func(string) string) map[string]string {
	return t.i.Attributes(nil)
}

func tagFunctions() template.FuncMap {
	return template.FuncMap{
		"json": jsonText, "split": strings.Split, "join": strings.Join, "title": title,
		"lower": strings.ToLower, "upper": strings.ToUpper, "pad": padText, "truncate": truncate,
	}
}
