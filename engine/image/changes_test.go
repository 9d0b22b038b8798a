package image

import (
	"reflect"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

func TestApplyChanges(t *testing.T) {
	base := func() dockerspec.DockerOCIImageConfig {
		var c dockerspec.DockerOCIImageConfig
		c.Env = []string{"PATH=/bin", "A=1"}
		c.Cmd = []string{"old"}
		c.WorkingDir = "/w"
		c.Labels = map[string]string{"k": "v"}
		return c
	}
	type cfg = dockerspec.DockerOCIImageConfig
	tests := map[string]struct {
		changes []string
		want    func(*cfg)
	}{
		"none":             {nil, func(c *cfg) {}},
		"cmd exec":         {[]string{`CMD ["a", "b c"]`}, func(c *cfg) { c.Cmd = []string{"a", "b c"} }},
		"cmd shell":        {[]string{`cmd echo $A  x`}, func(c *cfg) { c.Cmd = []string{"/bin/sh", "-c", "echo $A  x"} }},
		"entrypoint":       {[]string{`ENTRYPOINT ["e"]`}, func(c *cfg) { c.Entrypoint, c.Cmd = []string{"e"}, nil }},
		"cmd, entrypoint":  {[]string{`CMD ["c"]`, `ENTRYPOINT ["e"]`}, func(c *cfg) { c.Entrypoint, c.Cmd = []string{"e"}, []string{"c"} }},
		"empty entrypoint": {[]string{`ENTRYPOINT []`}, func(c *cfg) { c.Entrypoint, c.Cmd = []string{}, nil }},
		"shell then cmd":   {[]string{`SHELL ["/bin/bash","-ec"]`, "CMD x"}, func(c *cfg) { c.Shell = []string{"/bin/bash", "-ec"}; c.Cmd = []string{"/bin/bash", "-ec", "x"} }},
		"env":              {[]string{`ENV A=2 B="x y" C=$A\ z`}, func(c *cfg) { c.Env = []string{"PATH=/bin", "A=2", "B=x y", "C=1 z"} }},
		"env old":          {[]string{`ENV B one  two`}, func(c *cfg) { c.Env = append(c.Env, "B=one  two") }},
		"env default":      {[]string{`ENV B=${X:-d$A} C=${A:+set} D='$A' E="${A}"`}, func(c *cfg) { c.Env = append(c.Env, "B=d1", "C=set", "D=$A", "E=1") }},
		"label":            {[]string{`LABEL a=b "c d"='e f'`}, func(c *cfg) { c.Labels = map[string]string{"k": "v", "a": "b", "c d": "e f"} }},
		"expose":           {[]string{`EXPOSE 80 53/udp 8000-8002`}, func(c *cfg) { c.ExposedPorts = set("80/tcp", "53/udp", "8000/tcp", "8001/tcp", "8002/tcp") }},
		"volume":           {[]string{`VOLUME /a /b`, `VOLUME ["/c d"]`}, func(c *cfg) { c.Volumes = set("/a", "/b", "/c d") }},
		"user":             {[]string{`USER 1000:${A}`}, func(c *cfg) { c.User = "1000:1" }},
		"workdir":          {[]string{`WORKDIR x`, `WORKDIR ../y`}, func(c *cfg) { c.WorkingDir = "/w/y" }},
		"workdir absolute": {[]string{`WORKDIR /z/`}, func(c *cfg) { c.WorkingDir = "/z" }},
		"stopsignal":       {[]string{`STOPSIGNAL SIGKILL`}, func(c *cfg) { c.StopSignal = "SIGKILL" }},
		"onbuild":          {[]string{`ONBUILD RUN make`}, func(c *cfg) { c.OnBuild = []string{"RUN make"} }},
		"health none":      {[]string{`HEALTHCHECK NONE`}, func(c *cfg) { c.Healthcheck = &dockerspec.HealthcheckConfig{Test: []string{"NONE"}} }},
		"health": {[]string{`HEALTHCHECK --interval=5s --retries=3 CMD curl -f x`}, func(c *cfg) {
			c.Healthcheck = &dockerspec.HealthcheckConfig{Test: []string{"CMD-SHELL", "curl -f x"}, Interval: 5 * time.Second, Retries: 3}
		}},
		"health exec":       {[]string{`HEALTHCHECK CMD ["a"]`}, func(c *cfg) { c.Healthcheck = &dockerspec.HealthcheckConfig{Test: []string{"CMD", "a"}} }},
		"lines and comment": {[]string{"# no\nUSER a\n\nENV X=1 \\\n # inside\n  Y=2"}, func(c *cfg) { c.User = "a"; c.Env = append(c.Env, "X=1", "Y=2") }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			in := base()
			got, err := ApplyChanges(in, tt.changes)
			if err != nil {
				t.Fatal(err)
			}
			want := base()
			tt.want(&want)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if !reflect.DeepEqual(in, base()) {
				t.Error("changed its argument")
			}
		})
	}
}

func set(keys ...string) map[string]struct{} {
	m := map[string]struct{}{}
	for _, k := range keys {
		m[k] = struct{}{}
	}
	return m
}

func TestApplyChangesErrors(t *testing.T) {
	for _, line := range []string{
		"RUN x", "FROM x", "COPY a b", "nonsense", "ENV", "ENV A", "ENV =x", "ENV A=1 B", `ENV A="x`, "ENV A='x", "ENV A=${B", "ENV A=${B?x}",
		"EXPOSE x", "EXPOSE 70000", "EXPOSE 9-8", "EXPOSE 80/icmp", "USER a b", "VOLUME [\"\"]", "ONBUILD ONBUILD RUN x", "ONBUILD FROM x",
		"HEALTHCHECK", "HEALTHCHECK BAD", "HEALTHCHECK CMD", "HEALTHCHECK --interval=x CMD y", "HEALTHCHECK --foo=1 CMD y", "HEALTHCHECK NONE x", "SHELL x", "SHELL []",
	} {
		if _, err := ApplyChanges(dockerspec.DockerOCIImageConfig{}, []string{line}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %v, want InvalidArgument", line, err)
		}
	}
}

func FuzzApplyChanges(f *testing.F) {
	for _, s := range []string{"ENV A=$B", `CMD ["x"]`, "HEALTHCHECK --interval=1s CMD x", "EXPOSE 1-65535", "LABEL a='b\\\nc'", "ENV A=${A:-${A:-$A}}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ApplyChanges(dockerspec.DockerOCIImageConfig{}, []string{s})
		if err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("error of another class: %v", err)
		}
		if len(got.Env) > 1<<16 || len(got.ExposedPorts) > 4*65536 {
			t.Errorf("grew to %d", len(got.Env))
		}
	})
}

func TestParseTime(t *testing.T) {
	now := time.Unix(1000000, 0)
	for in, want := range map[string]time.Time{
		"10m":                  now.Add(-10 * time.Minute),
		"1700000000":           time.Unix(1700000000, 0),
		"1700000000.5":         time.Unix(1700000000, 500000000),
		"2024-01-02T03:04:05Z": time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC),
		"2024-01-02":           time.Date(2024, 1, 2, 0, 0, 0, 0, time.Local),
	} {
		if got, err := parseTime(in, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: got %v, %v, want %v", in, got, err, want)
		}
	}
	if _, err := parseTime("soon", now); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
}

func TestSameRegistry(t *testing.T) {
	for _, tt := range []struct {
		address, host string
		want          bool
	}{
		{"", "reg.local", true},
		{"https://index.docker.io/v1/", "docker.io", true},
		{"https://index.docker.io/v1/", "reg.local", false},
		{"reg.local:5000", "reg.local:5000", true},
		{"https://reg.local/v2/", "reg.local", true},
		{"reg.local", "reg.local:5000", false},
	} {
		if got := sameRegistry(tt.address, tt.host); got != tt.want {
			t.Errorf("%q for %q: %v", tt.address, tt.host, got)
		}
	}
}
