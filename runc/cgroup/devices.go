package cgroup

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// access is a set of what a process may do with a device. The values are those
// of the kernel's BPF_DEVCG_ACC_*.
type access uint8

const (
	accessMknod access = 1 << iota
	accessRead
	accessWrite
	accessAll = accessMknod | accessRead | accessWrite
)

func (a access) String() string {
	var b []byte
	for _, f := range []struct {
		bit    access
		letter byte
	}{{accessRead, 'r'}, {accessWrite, 'w'}, {accessMknod, 'm'}} {
		if a&f.bit != 0 {
			b = append(b, f.letter)
		}
	}
	return string(b)
}

func parseAccess(s string) (access, error) {
	var a access
	for _, c := range s {
		switch c {
		case 'r':
			a |= accessRead
		case 'w':
			a |= accessWrite
		case 'm':
			a |= accessMknod
		case 'a':
			// Docker compatibility: runc ignores it.
		default:
			return 0, invalid("device access %q has more than r, w and m", s)
		}
	}
	return a, nil
}

// wildcard is "any" as a device number.
const wildcard = -1

// device is what a rule is about.
type device struct {
	typ          byte  // 'b', 'c', or 'a' for both
	major, minor int64 // or wildcard
}

func (d device) String() string {
	number := func(n int64) string {
		if n == wildcard {
			return "*"
		}
		return strconv.FormatInt(n, 10)
	}
	return fmt.Sprintf("%c %s:%s", d.typ, number(d.major), number(d.minor))
}

// rule allows or denies an access. In a list of rules, for each kind of access,
// the last rule that matches a device decides.
type rule struct {
	allow bool
	device
	access access
}

func (r rule) String() string { return r.device.String() + " " + r.access.String() }

// everything reports whether the rule leaves nothing to rules before it.
func (r rule) everything() bool {
	return r.typ == 'a' && r.major == wildcard && r.minor == wildcard && r.access == accessAll
}

// defaultDevices are those that every container has (runtime-spec,
// config-linux.md#default-devices), and the making of any node, which gives
// nothing by itself: to open it takes r or w.
func defaultDevices() []rule {
	return []rule{
		{true, device{'c', wildcard, wildcard}, accessMknod},
		{true, device{'b', wildcard, wildcard}, accessMknod},
		{true, device{'c', 1, 3}, accessAll},          // null
		{true, device{'c', 1, 5}, accessAll},          // zero
		{true, device{'c', 1, 7}, accessAll},          // full
		{true, device{'c', 1, 8}, accessAll},          // random
		{true, device{'c', 1, 9}, accessAll},          // urandom
		{true, device{'c', 5, 0}, accessAll},          // tty
		{true, device{'c', 5, 1}, accessAll},          // console
		{true, device{'c', 5, 2}, accessAll},          // ptmx
		{true, device{'c', 136, wildcard}, accessAll}, // pts
	}
}

// deviceRules returns the container's rules: those of list and the default
// devices. The list starts from deny-all, whether it says so or not
// (GHSA-g54h-m393-cpwq). What a later rule makes void is left out.
func deviceRules(list []specs.LinuxDeviceCgroup) ([]rule, error) {
	rules := make([]rule, 0, len(list)+16)
	for i, s := range list {
		r, err := deviceRule(s)
		if err != nil {
			return nil, fmt.Errorf("device rule %d: %w", i, err)
		}
		if r.everything() {
			rules = rules[:0]
			if !r.allow {
				continue // deny-all is where the list starts
			}
		}
		rules = append(rules, r)
	}
	if len(rules) > 0 && rules[0].everything() && !slices.ContainsFunc(rules, func(r rule) bool { return !r.allow }) {
		return rules[:1], nil // privileged: all is allowed and nothing denied
	}
	for _, d := range defaultDevices() {
		if !slices.Contains(rules, d) {
			rules = append(rules, d)
		}
	}
	return rules, nil
}

func deviceRule(s specs.LinuxDeviceCgroup) (rule, error) {
	r := rule{allow: s.Allow, device: device{major: wildcard, minor: wildcard}}
	switch s.Type {
	case "", "a":
		// As in v1 files: "a" is all devices, and numbers and access are nothing
		// to it.
		r.typ, r.access = 'a', accessAll
		return r, nil
	case "b", "c":
		r.typ = s.Type[0]
	default:
		return rule{}, invalid("device type %q is none of a, b and c", s.Type)
	}
	for _, n := range []struct {
		from *int64
		to   *int64
	}{{s.Major, &r.major}, {s.Minor, &r.minor}} {
		if n.from == nil || *n.from == wildcard {
			continue
		}
		if *n.from < 0 || *n.from > 1<<32-1 {
			return rule{}, invalid("device number %d", *n.from)
		}
		*n.to = *n.from
	}
	var err error
	r.access, err = parseAccess(s.Access)
	if err == nil && r.access == 0 {
		err = invalid("device access is empty")
	}
	return r, err
}

// whitelist is a v1 device list: a default and its exceptions. It is all that v1
// can say.
type whitelist struct {
	allowAll bool
	access   map[device]access // allowed; denied if allowAll
}

// newWhitelist converts rules for v1. It refuses rules that deny a part of what
// an earlier one allows by wildcard: v1 would quietly not deny it.
func newWhitelist(rules []rule) (whitelist, error) {
	w := whitelist{access: make(map[device]access)}
	for _, r := range rules {
		if r.everything() {
			w = whitelist{allowAll: r.allow, access: make(map[device]access)}
			continue
		}
		if r.allow != w.allowAll {
			w.access[r.device] |= r.access
			continue
		}
		// The rule takes from the exceptions.
		for d, a := range w.access {
			switch {
			case a&r.access == 0 || !overlap(d, r.device):
			case covers(r.device, d):
				if w.access[d] &^= r.access; w.access[d] == 0 {
					delete(w.access, d)
				}
			default:
				return whitelist{}, invalid("device rule %q after %q: cgroup v1 cannot make an exception to an exception", r, d)
			}
		}
	}
	return w, nil
}

// covers reports whether every device of b is one of a.
func covers(a, b device) bool {
	return (a.typ == 'a' || a.typ == b.typ) && (a.major == wildcard || a.major == b.major) && (a.minor == wildcard || a.minor == b.minor)
}

// overlap reports whether there is a device of both.
func overlap(a, b device) bool {
	same := func(x, y int64) bool { return x == wildcard || y == wildcard || x == y }
	return (a.typ == 'a' || b.typ == 'a' || a.typ == b.typ) && same(a.major, b.major) && same(a.minor, b.minor)
}

// parseDevicesList parses v1's devices.list. A list that allows all says so and
// does not tell its exceptions.
func parseDevicesList(text string) (whitelist, error) {
	w := whitelist{access: make(map[device]access)}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 || len(f[0]) != 1 {
			return whitelist{}, fmt.Errorf("parse devices.list: line %q", line)
		}
		major, minor, _ := strings.Cut(f[1], ":")
		d := device{typ: f[0][0]}
		var err1, err2 error
		d.major, err1 = parseDeviceNumber(major)
		d.minor, err2 = parseDeviceNumber(minor)
		a, err3 := parseAccess(f[2])
		if err := errors.Join(err1, err2, err3); err != nil {
			return whitelist{}, fmt.Errorf("parse devices.list: line %q: %w", line, err)
		}
		if d.typ == 'a' {
			w.allowAll = true
			continue
		}
		w.access[d] |= a
	}
	return w, nil
}

func parseDeviceNumber(s string) (int64, error) {
	if s == "*" {
		return wildcard, nil
	}
	return strconv.ParseInt(s, 10, 64)
}

// setDevices makes the v1 group's device list that of rules.
func (m *v1) setDevices(list []specs.LinuxDeviceCgroup, fresh bool) error {
	rules, err := deviceRules(list)
	if err != nil {
		return err
	}
	want, err := newWhitelist(rules)
	if err != nil {
		return err
	}
	d, err := m.open("devices", "device rules")
	if err != nil {
		return err
	}
	defer d.close()
	if err := want.apply(d, fresh); err != nil {
		if errors.Is(err, unix.EPERM) && inUserNamespace() {
			// Only the first user namespace may write device lists. Nothing
			// is lost: in others no device node can be made.
			return nil
		}
		return fmt.Errorf("set device rules: %w", err)
	}
	return nil
}

// apply takes the group from what it has to w. For a group with processes no
// device that both allow is refused on the way.
func (w whitelist) apply(d dir, fresh bool) error {
	have := whitelist{allowAll: true} // with exceptions unknown
	if !fresh {
		text, err := d.read("devices.list")
		if err != nil {
			return err
		}
		if have, err = parseDevicesList(string(text)); err != nil {
			return err
		}
	}
	allow, deny := newLines(d, "devices.allow"), newLines(d, "devices.deny")
	defer allow.close()
	defer deny.close()

	if w.allowAll {
		// Back to no exceptions, then those that are wanted.
		if err := allow.write("a"); err != nil {
			return err
		}
		for dev, a := range w.access {
			if err := deny.write(rule{device: dev, access: a}.String()); err != nil {
				return err
			}
		}
		return nil
	}
	if have.allowAll {
		// Deny-all is the only way from there to a list of what is allowed.
		if err := deny.write("a"); err != nil {
			return err
		}
		have = whitelist{}
	}
	for dev, a := range w.access {
		if more := a &^ have.access[dev]; more != 0 {
			if err := allow.write(rule{device: dev, access: more}.String()); err != nil {
				return err
			}
		}
	}
	for dev, a := range have.access {
		if less := a &^ w.access[dev]; less != 0 {
			if err := deny.write(rule{device: dev, access: less}.String()); err != nil {
				return err
			}
		}
	}
	return nil
}

// lines writes to a file that takes one rule per write. It is opened at the
// first.
type lines struct {
	dir  dir
	name string
	fd   int
}

func newLines(d dir, name string) *lines { return &lines{dir: d, name: name, fd: -1} }

func (l *lines) write(value string) error {
	if l.fd < 0 {
		fd, err := l.dir.openFile(l.name, unix.O_WRONLY)
		if err != nil {
			return err
		}
		l.fd = fd
	}
	return l.dir.writeFD(l.fd, l.name, value)
}

func (l *lines) close() {
	if l.fd >= 0 {
		unix.Close(l.fd)
	}
}

// inUserNamespace reports whether this process is in another user namespace
// than the first, whose map is the identity.
func inUserNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	return !slices.Equal(strings.Fields(string(b)), []string{"0", "0", "4294967295"})
}
