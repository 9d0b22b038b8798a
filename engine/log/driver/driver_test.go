package driver

import (
	"errors"
	"maps"
	"testing"

	"github.com/containerd/errdefs"
)

func TestCheckRefuses(t *testing.T) {
	for _, tt := range []struct {
		driver, want string
		opts         map[string]string
	}{
		{"nosuch", "logger: no log driver named 'nosuch' is registered", nil},
		{"json-file", "unknown log opt 'bogus' for json-file log driver", map[string]string{"bogus": "1"}},
		{"json-file", "invalid size: 'lots'", map[string]string{"max-size": "lots"}},
		{"json-file", "max-size must be a positive number", map[string]string{"max-size": "0"}},
		{"json-file", "max-file cannot be less than 1", map[string]string{"max-file": "0"}},
		{"json-file", "compress cannot be true when max-file is less than 2 or max-size is not set", map[string]string{"compress": "true"}},
		{"json-file", "logger: logging mode not supported: maybe", map[string]string{"mode": "maybe"}},
		{"json-file", "logger: max-buffer-size option is only supported with 'mode=non-blocking'", map[string]string{"max-buffer-size": "1m"}},
		{"json-file", "error parsing option max-buffer-size: invalid size: 'x'", map[string]string{"mode": "non-blocking", "max-buffer-size": "x"}},
		{"json-file", "invalid value for option cache-disabled: perhaps", map[string]string{"cache-disabled": "perhaps"}},
		{"json-file", "error parsing regexp: missing closing ]: `[`", map[string]string{"labels-regex": "["}},
		{"local", "unknown log opt 'labels' for log driver local", map[string]string{"labels": "a"}},
		{"local", "max file count cannot be less than 0", map[string]string{"max-file": "0"}},
		{"local", "compression cannot be enabled when max file count is 1", map[string]string{"max-file": "1", "compress": "true"}},
		{"syslog", "unknown log opt 'max-size' for syslog log driver", map[string]string{"max-size": "1m"}},
		{"syslog", "unsupported scheme: 'http'", map[string]string{"syslog-address": "http://x"}},
		{"syslog", "invalid syslog facility", map[string]string{"syslog-facility": "nope"}},
		{"syslog", "Invalid syslog format", map[string]string{"syslog-format": "rfc1"}},
		{"syslog", "stat /nosuch: no such file or directory", map[string]string{"syslog-address": "unix:///nosuch"}},
		{"journald", "unknown log opt 'x' for journald log driver", map[string]string{"x": "1"}},
		{"fluentd", "invalid fluentd-address (ftp://x): unsupported scheme: 'ftp'", map[string]string{"fluentd-address": "ftp://x"}},
		{"fluentd", "invalid fluentd-address (x/y): should not contain a path element", map[string]string{"fluentd-address": "x/y"}},
		{"fluentd", "invalid fluentd-max-retries: value out of range", map[string]string{"fluentd-max-retries": "4294967295"}},
		{"fluentd", `invalid value for fluentd-async-reconnect-interval: value ("1m0s") must be between 100ms and 10s`, map[string]string{"fluentd-async-reconnect-interval": "1m"}},
		{"gelf", "gelf-address is a required parameter", nil},
		{"gelf", "gelf: endpoint needs to be TCP or UDP", map[string]string{"gelf-address": "http://x"}},
		{"gelf", "compression is only supported on UDP", map[string]string{"gelf-address": "tcp://x:1", "gelf-compression-type": "gzip"}},
		{"gelf", `unknown log opt "x" for gelf log driver`, map[string]string{"gelf-address": "tcp://x:1", "x": "y"}},
		{"splunk", "splunk: splunk-url is expected", nil},
		{"splunk", "splunk: splunk-token is expected", map[string]string{"splunk-url": "http://x"}},
		{"splunk", "splunk: expected format scheme://dns_name_or_ip:port for splunk-url", map[string]string{"splunk-url": "http://x/path"}},
		{"awslogs", "must specify a value for log opt 'awslogs-group'", nil},
		{"awslogs", "unsupported log format 'x'", map[string]string{"awslogs-group": "g", "awslogs-format": "x"}},
		{"awslogs", "you cannot configure log opt 'awslogs-datetime-format' and 'awslogs-multiline-pattern' at the same time",
			map[string]string{"awslogs-group": "g", "awslogs-datetime-format": "%Y", "awslogs-multiline-pattern": "^x"}},
		{"gcplogs", `"x" is not a valid option for the gcplogs driver`, map[string]string{"x": "1"}},
	} {
		err := Check(tt.driver, tt.opts)
		if err == nil || err.Error() != tt.want || !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s %v: error %v, want %q", tt.driver, tt.opts, err, tt.want)
		}
	}
}

func TestFileOf(t *testing.T) {
	for _, tt := range []struct {
		driver string
		opts   map[string]string
		want   File
	}{
		{"none", map[string]string{"x": "whatever"}, File{}},
		{"json-file", nil, File{Format: "json-file", MaxFiles: 1, Readable: true}},
		{"json-file", map[string]string{"max-size": "10m", "max-file": "3", "compress": "true"},
			File{Format: "json-file", MaxBytes: 10e6, MaxFiles: 3, Compress: true, Readable: true}},
		{"local", nil, File{Format: "local", MaxBytes: 20e6, MaxFiles: 5, Compress: true, Readable: true}},
		{"local", map[string]string{"max-file": "1"}, File{Format: "local", MaxBytes: 20e6, MaxFiles: 1, Readable: true}},
		{"syslog", nil, File{Format: "local", MaxBytes: 20e6, MaxFiles: 5, Compress: true, Readable: true, Remote: true, Blocking: true}},
		{"syslog", map[string]string{"mode": "non-blocking", "max-buffer-size": "200000000", "cache-compress": "false"},
			File{Format: "local", MaxBytes: 20e6, MaxFiles: 11, Readable: true, Remote: true}},
		{"journald", map[string]string{"cache-disabled": "true", "cache-max-file": "1", "cache-max-size": "1m"},
			File{Format: "local", MaxBytes: 1e6, MaxFiles: 2, Remote: true, Blocking: true}},
	} {
		got, err := FileOf(tt.driver, tt.opts)
		if err != nil || got != tt.want {
			t.Errorf("%s %v: %+v, %v, want %+v", tt.driver, tt.opts, got, err, tt.want)
		}
	}
}

func TestLimit(t *testing.T) {
	for _, tt := range []struct{ have, want File }{
		{File{Format: "json-file", MaxFiles: 1}, File{Format: "json-file", MaxFiles: 2, MaxBytes: 5e6}},
		{File{Format: "json-file", MaxFiles: 2, MaxBytes: 1e6}, File{Format: "json-file", MaxFiles: 2, MaxBytes: 1e6}},
		{File{Format: "local", MaxFiles: 5, MaxBytes: 20e6}, File{Format: "local", MaxFiles: 5, MaxBytes: 2e6}},
		{File{}, File{}},
	} {
		if got := tt.have.Limit(10e6); got != tt.want {
			t.Errorf("%+v limited is %+v, want %+v", tt.have, got, tt.want)
		}
	}
}

// testInfo is a container's.
func testInfo(opts map[string]string) Info {
	return Info{
		ID: "0123456789abcdef0123456789abcdef", Name: "web", ImageID: "sha256:feedface", ImageName: "busybox:latest",
		Command: "httpd -f", Path: "httpd", Args: []string{"-f"}, Env: []string{"STAGE=prod", "OTHER=1"},
		Labels: map[string]string{"team": "a", "tier": "b"}, Hostname: "host", DaemonName: "docker", Options: opts,
	}
}

func TestTagAndAttributes(t *testing.T) {
	for text, want := range map[string]string{
		"":                  "0123456789ab",
		"{{.Name}}/{{.ID}}": "web/0123456789ab",
		"{{.FullID}} {{.ImageName}} {{.Command}}": "0123456789abcdef0123456789abcdef busybox:latest httpd -f",
		"{{.ImageID}} {{upper .DaemonName}}":      "sha256:feedf DOCKER",
		`{{index .ContainerLabels "team"}}`:       "a",
		`{{json (.ExtraAttributes nil)}}`:         `{"team":"a"}`,
	} {
		info := testInfo(map[string]string{"tag": text, "labels": "team"})
		if got, err := info.Tag(defaultTag); err != nil || got != want {
			t.Errorf("tag %q = %q, %v, want %q", text, got, err, want)
		}
	}
	info := testInfo(map[string]string{"labels": "team,none", "labels-regex": "^ti", "env": "STAGE", "env-regex": "^OTH"})
	want := map[string]string{"team": "a", "tier": "b", "STAGE": "prod", "OTHER": "1"}
	if got := info.Attributes(nil); !maps.Equal(got, want) {
		t.Errorf("attributes %v, want %v", got, want)
	}
}
