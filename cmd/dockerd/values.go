package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	enginegc "lighter/engine/gc"
)

// byteSize is a number of bytes, written with a unit ("64m").
type byteSize int64

func (b *byteSize) String() string { return units.BytesSize(float64(*b)) }
func (b *byteSize) Type() string   { return "bytes" }
func (b *byteSize) Set(s string) error {
	n, err := units.RAMInBytes(s)
	*b = byteSize(n)
	return err
}

// UnmarshalJSON accepts what the flag accepts.
func (b *byteSize) UnmarshalJSON(raw []byte) error {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		var n int64
		if err := json.Unmarshal(raw, &n); err != nil {
			return err
		}
		*b = byteSize(n)
		return nil
	}
	return b.Set(s)
}

// optBool is a flag that knows whether it was given.
type optBool struct{ p **bool }

func (o optBool) String() string {
	if o.p == nil || *o.p == nil {
		return "false"
	}
	return strconv.FormatBool(**o.p)
}
func (o optBool) Type() string     { return "bool" }
func (o optBool) IsBoolFlag() bool { return true }
func (o optBool) Set(s string) error {
	v, err := strconv.ParseBool(s)
	*o.p = &v
	return err
}

// stringMap is a repeatable key=value flag.
type stringMap map[string]string

func (m *stringMap) String() string { return fmt.Sprint(map[string]string(*m)) }
func (m *stringMap) Type() string   { return "map" }
func (m *stringMap) Set(s string) error {
	key, value, _ := strings.Cut(s, "=")
	if *m == nil {
		*m = stringMap{}
	}
	(*m)[key] = value
	return nil
}

// features is a repeatable name[=bool] flag.
type features map[string]bool

func (f *features) String() string { return fmt.Sprint(map[string]bool(*f)) }
func (f *features) Type() string   { return "map" }
func (f *features) Set(s string) error {
	name, text, given := strings.Cut(s, "=")
	on := true
	if given {
		var err error
		if on, err = strconv.ParseBool(text); err != nil {
			return fmt.Errorf("invalid boolean value for feature %s: %q", name, text)
		}
	}
	if *f == nil {
		*f = features{}
	}
	(*f)[name] = on
	return nil
}

// ulimits are default limits by name.
type ulimits map[string]*units.Ulimit

func (u *ulimits) String() string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(*u)) {
		out = append(out, (*u)[name].String())
	}
	return fmt.Sprint(out)
}
func (u *ulimits) Type() string { return "ulimit" }
func (u *ulimits) Set(s string) error {
	l, err := units.ParseUlimit(s)
	if err != nil {
		return err
	}
	if *u == nil {
		*u = ulimits{}
	}
	(*u)[l.Name] = l
	return nil
}

// defaultRuntime is the built-in runtime's name.
const defaultRuntime = "runc"

// runtimeConfig is an OCI program, or a shim by its type.
type runtimeConfig struct {
	Path    string         `json:"path,omitempty"`
	Args    []string       `json:"runtimeArgs,omitempty"`
	Type    string         `json:"runtimeType,omitempty"`
	Options map[string]any `json:"options,omitempty"`
}

// runtimes are the configured ones by name.
type runtimes map[string]runtimeConfig

func (r *runtimes) String() string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(*r)) {
		out = append(out, name+"="+(*r)[name].Path)
	}
	return fmt.Sprint(out)
}
func (r *runtimes) Type() string { return "runtime" }
func (r *runtimes) Set(s string) error {
	name, path, ok := strings.Cut(s, "=")
	if name, path = strings.TrimSpace(name), strings.TrimSpace(path); !ok || name == "" || path == "" {
		return fmt.Errorf("invalid runtime argument: %s", s)
	}
	if name == defaultRuntime {
		return fmt.Errorf("runtime name 'runc' is reserved")
	}
	if _, dup := (*r)[name]; dup {
		return fmt.Errorf("runtime '%s' was already defined", name)
	}
	if *r == nil {
		*r = runtimes{}
	}
	(*r)[name] = runtimeConfig{Path: path}
	return nil
}

// pool is where subnets of networks come from.
type pool struct {
	Base string `json:"base"`
	Size int    `json:"size"`
}

type pools []pool

func (p *pools) String() string {
	var out []string
	for _, one := range *p {
		out = append(out, fmt.Sprintf("base=%s,size=%d", one.Base, one.Size))
	}
	return fmt.Sprint(out)
}
func (p *pools) Type() string { return "pool-options" }
func (p *pools) Set(s string) error {
	var one pool
	for part := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(part, "=")
		var err error
		switch strings.ToLower(key) {
		case "base":
			_, err = netip.ParsePrefix(value)
			one.Base = value
		case "size":
			one.Size, err = strconv.Atoi(value)
		default:
			return fmt.Errorf("invalid value for default pool: %s", s)
		}
		if err != nil {
			return fmt.Errorf("invalid %s for default pool: %w", key, err)
		}
	}
	*p = append(*p, one)
	return nil
}

// driverOpts are default options of networks by driver.
type driverOpts map[string]map[string]string

func (d *driverOpts) String() string { return fmt.Sprint(map[string]map[string]string(*d)) }
func (d *driverOpts) Type() string   { return "mapmap" }
func (d *driverOpts) Set(s string) error {
	driver, option, ok := strings.Cut(s, "=")
	key, value, valued := strings.Cut(option, "=")
	if !ok || !valued || driver == "" || key == "" {
		return fmt.Errorf("invalid default network option %q: driver=option=value is wanted", s)
	}
	if *d == nil {
		*d = driverOpts{}
	}
	if (*d)[driver] == nil {
		(*d)[driver] = map[string]string{}
	}
	(*d)[driver][key] = value
	return nil
}

// proxies are those for the daemon's own requests.
type proxies struct {
	HTTP  string `json:"http-proxy"`
	HTTPS string `json:"https-proxy"`
	No    string `json:"no-proxy"`
}

// UnmarshalJSON sets the proxies that the object names and refuses other keys.
func (p *proxies) UnmarshalJSON(raw []byte) error {
	var given map[string]string
	if err := json.Unmarshal(raw, &given); err != nil {
		return err
	}
	for key, value := range given {
		switch key {
		case "http-proxy":
			p.HTTP = value
		case "https-proxy":
			p.HTTPS = value
		case "no-proxy":
			p.No = value
		default:
			return fmt.Errorf("the following directives don't match any configuration option: %s", key)
		}
	}
	return nil
}

// maskURL hides the user and the password in a URL.
func maskURL(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.User == nil {
		return s
	}
	u.User = url.UserPassword("xxxxx", "xxxxx")
	return u.String()
}

// gc is the policy of the automatic clean-up; the zero value does nothing.
type gc struct {
	// KeepStorage bounds what images that no container uses may take, in bytes.
	KeepStorage byteSize `json:"keep-storage"`
	// Until is how old an unused image gets.
	Until duration `json:"until"`
	// LowWaterMark is how much of the data root's file system shall stay free:
	// when less is, unused images go, the oldest first.
	LowWaterMark share `json:"low-water-mark"`
	// MinAge is how long an image is left alone after it came; 0 means ten
	// minutes.
	MinAge duration `json:"min-age"`
	// Interval is the time between two looks; 0 means an hour.
	Interval duration `json:"interval"`
}

// UnmarshalJSON refuses keys that do not exist.
func (g *gc) UnmarshalJSON(raw []byte) error {
	type plain gc
	return strictObject(raw, (*plain)(g))
}

// policy is the engine's form of it.
func (g *gc) policy() enginegc.Policy {
	return enginegc.Policy{
		KeepBytes: int64(g.KeepStorage), MaxAge: time.Duration(g.Until),
		FreeBytes: g.LowWaterMark.Bytes, FreePercent: g.LowWaterMark.Percent,
		MinAge: time.Duration(g.MinAge), Interval: time.Duration(g.Interval),
	}
}

// duration is a time.Duration written as "36h".
type duration time.Duration

func (d *duration) UnmarshalJSON(raw []byte) error {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return err
	}
	v, err := time.ParseDuration(s)
	if err == nil && v < 0 {
		err = fmt.Errorf("duration %q is negative", s)
	}
	*d = duration(v)
	return err
}

// share is a part of a file system: bytes ("5GB") or percent ("10%").
type share struct {
	Bytes   int64
	Percent float64
}

func (s *share) UnmarshalJSON(raw []byte) error {
	var text string
	if err := json.Unmarshal(raw, &text); err == nil {
		if number, ok := strings.CutSuffix(strings.TrimSpace(text), "%"); ok {
			v, err := strconv.ParseFloat(number, 64)
			if err != nil || v < 0 || v >= 100 {
				return fmt.Errorf("%q is not a share of a disk", text)
			}
			s.Percent = v
			return nil
		}
	}
	var b byteSize
	err := b.UnmarshalJSON(raw)
	s.Bytes = int64(b)
	return err
}

// nri would let plugins adjust containers.
type nri struct {
	Enable           bool   `json:"enable"`
	PluginPath       string `json:"plugin-path,omitempty"`
	PluginConfigPath string `json:"plugin-config-path,omitempty"`
	SocketPath       string `json:"socket-path,omitempty"`
}

func (n *nri) String() string { return "" }
func (n *nri) Type() string   { return "nri-opts" }
func (n *nri) Set(s string) error {
	for part := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(part, "=")
		switch key {
		case "enable":
			var err error
			if n.Enable, err = strconv.ParseBool(value); err != nil {
				return err
			}
		case "plugin-path":
			n.PluginPath = value
		case "plugin-config-path":
			n.PluginConfigPath = value
		case "socket-path":
			n.SocketPath = value
		default:
			return fmt.Errorf("unexpected key '%s' in '%s'", key, part)
		}
	}
	return nil
}

// strictObject decodes an object and refuses keys that v has not.
func strictObject(raw []byte, v any) error {
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.DisallowUnknownFields()
	return dec.Decode(v)
}
