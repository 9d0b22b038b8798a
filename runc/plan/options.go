package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var errInvalid = errdefs.ErrInvalidArgument

// MountOptions are the options of a mount in config.json, sorted by what the
// kernel takes them for.
type MountOptions struct {
	// Bind says that the mount shows an existing tree; Recursive includes what
	// is mounted below it.
	Bind, Recursive bool
	// Set and Clear are MOUNT_ATTR_* bits for the mount itself; RecSet and
	// RecClear for the mount and those below it.
	Set, Clear, RecSet, RecClear uint64
	// Named says that an option named an attribute, so that a bind mount does
	// not keep those of its source.
	Named bool
	// Atime says that an option set an access time mode: a bind mount has that in
	// place of its source's.
	Atime bool
	// Keep are attributes of the source of a bind mount that it does not lose,
	// because a user namespace could not take them away: see Lock.
	Keep uint64
	// Propagation are the propagation changes in order.
	Propagation []Propagation
	// Super are options of the file system that take no value, such as "sync";
	// Data are those that the file system defines.
	Super, Data []string
	// CopyUp fills a tmpfs with what it hides.
	CopyUp bool
	// IDMap maps the owners of a bind mount; RecIDMap also below it.
	IDMap, RecIDMap bool
}

// Propagation is a change of a mount's propagation type: one of MS_PRIVATE,
// MS_SLAVE, MS_SHARED and MS_UNBINDABLE.
type Propagation struct {
	Type      uint64
	Recursive bool
}

type attr struct {
	set, clear uint64
}

// attrs are the mount attributes by option. With a leading "r" they are
// recursive.
var attrs = map[string]attr{
	"ro": {set: unix.MOUNT_ATTR_RDONLY}, "rw": {clear: unix.MOUNT_ATTR_RDONLY},
	"nosuid": {set: unix.MOUNT_ATTR_NOSUID}, "suid": {clear: unix.MOUNT_ATTR_NOSUID},
	"nodev": {set: unix.MOUNT_ATTR_NODEV}, "dev": {clear: unix.MOUNT_ATTR_NODEV},
	"noexec": {set: unix.MOUNT_ATTR_NOEXEC}, "exec": {clear: unix.MOUNT_ATTR_NOEXEC},
	"nodiratime": {set: unix.MOUNT_ATTR_NODIRATIME}, "diratime": {clear: unix.MOUNT_ATTR_NODIRATIME},
	"noatime":       {set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME},
	"atime":         {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"relatime":      {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"norelatime":    {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"strictatime":   {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME},
	"nostrictatime": {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"nosymfollow":   {set: unix.MOUNT_ATTR_NOSYMFOLLOW}, "symfollow": {clear: unix.MOUNT_ATTR_NOSYMFOLLOW},
}

// atimes are the attributes of access times; none of them is relatime.
const atimes = unix.MOUNT_ATTR__ATIME | unix.MOUNT_ATTR_NODIRATIME

// unsets are the options that take back one of access times.
var unsets = map[string]uint64{
	"atime": unix.MOUNT_ATTR_NOATIME, "norelatime": 0, "nostrictatime": unix.MOUNT_ATTR_STRICTATIME,
	"diratime": unix.MOUNT_ATTR_NODIRATIME,
}

// supers are options of the superblock without a value; "" is the default and
// needs nothing.
var supers = map[string]string{
	"async": "", "sync": "sync", "dirsync": "dirsync", "lazytime": "lazytime", "nolazytime": "",
	"mand": "mand", "nomand": "", "iversion": "iversion", "noiversion": "", "silent": "silent", "loud": "", "defaults": "",
}

var propagations = map[string]uint64{
	"private": unix.MS_PRIVATE, "slave": unix.MS_SLAVE, "shared": unix.MS_SHARED, "unbindable": unix.MS_UNBINDABLE,
}

// OptionNames returns the mount options that ParseOptions knows, sorted.
func OptionNames() []string {
	names := []string{"bind", "rbind", "remount", "tmpcopyup"}
	for n := range attrs {
		names = append(names, n, "r"+n)
	}
	for n := range supers {
		names = append(names, n)
	}
	for n := range propagations {
		names = append(names, n, "r"+n)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// ParseOptions sorts the options of m. Options that it does not know are the
// file system's. The error is InvalidArgument and names the option.
func ParseOptions(m *specs.Mount) (MountOptions, error) {
	var o MountOptions
	o.Bind = m.Type == "bind" || m.Type == "rbind"
	o.Recursive = m.Type == "rbind"
	for _, name := range m.Options {
		if name == "bind" || name == "rbind" {
			o.Bind, o.Recursive = true, o.Recursive || name == "rbind"
			continue
		}
		if bits, ok := unsets[name]; ok {
			// As mount(8) has it, this takes back an option; it sets no mode.
			o.Named, o.Atime = true, o.Atime && (o.Set&bits == 0 || o.Set&^bits&atimes != 0)
			o.Set &^= bits
			if name == "diratime" {
				o.Clear |= unix.MOUNT_ATTR_NODIRATIME
			}
			continue
		}
		if a, ok := attrs[name]; ok {
			o.Atime = o.Atime || (a.set|a.clear)&atimes != 0
			o.Set, o.Clear = o.Set&^a.clear|a.set, o.Clear&^a.set|a.clear
			o.Named = true
			continue
		}
		rest, r := strings.CutPrefix(name, "r")
		if a, ok := attrs[rest]; r && ok {
			o.RecSet, o.RecClear = o.RecSet&^a.clear|a.set, o.RecClear&^a.set|a.clear
			continue
		}
		if p, ok := propagations[name]; ok {
			o.Propagation = append(o.Propagation, Propagation{Type: p})
			continue
		}
		if p, ok := propagations[rest]; r && ok {
			o.Propagation = append(o.Propagation, Propagation{Type: p, Recursive: true})
			continue
		}
		if s, ok := supers[name]; ok {
			if s != "" {
				o.Super = append(o.Super, s)
			}
			continue
		}
		switch name {
		case "remount", "":
		case "tmpcopyup":
			o.CopyUp = true
		case "idmap":
			o.IDMap = true
		case "ridmap":
			o.IDMap, o.RecIDMap = true, true
		default:
			o.Data = append(o.Data, name)
		}
	}
	if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		o.IDMap = true
		if len(m.UIDMappings) == 0 || len(m.GIDMappings) == 0 {
			return o, fmt.Errorf("mount %q: uidMappings and gidMappings must be given together: %w", m.Destination, errInvalid)
		}
	}
	switch {
	case o.Bind && len(o.Data) > 0:
		return o, fmt.Errorf("mount %q: option %q does not apply to a bind mount: %w", m.Destination, o.Data[0], errInvalid)
	case o.IDMap && !o.Bind:
		return o, fmt.Errorf("mount %q: id mapping applies to bind mounts only: %w", m.Destination, errInvalid)
	case o.CopyUp && m.Type != "tmpfs":
		return o, fmt.Errorf("mount %q: option \"tmpcopyup\" applies to tmpfs only: %w", m.Destination, errInvalid)
	}
	return o, nil
}

// BindAttr returns what to set and clear on the top mount of a bind mount, and on
// the mounts below it. A bind mount whose options name an attribute has exactly
// those that are named; the access time mode stays unless it is named.
func (o *MountOptions) BindAttr() (set, clear uint64) {
	if !o.Named {
		return 0, 0
	}
	const all = locked | unix.MOUNT_ATTR_NOSYMFOLLOW
	set, clear = o.Set, (o.Clear|all&^o.Set)&^o.Keep&^atimes
	if o.Atime {
		clear |= atimes &^ (set & unix.MOUNT_ATTR_NODIRATIME)
	}
	return set, clear
}

// locked are the attributes that the kernel locks when a mount gets into the mount
// namespace of another user namespace.
const locked = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

// Lock makes o obey the locks of mount_namespaces(7) for a container in a user
// namespace: a bind mount of a source with the flags of statfs(2) keeps those that
// no option names, and may not lose one.
//
// The error is EPERM.
func (o *MountOptions) Lock(flags int64) error {
	var have uint64
	for st, attr := range map[int64]uint64{
		unix.ST_RDONLY: unix.MOUNT_ATTR_RDONLY, unix.ST_NOSUID: unix.MOUNT_ATTR_NOSUID, unix.ST_NODEV: unix.MOUNT_ATTR_NODEV,
		unix.ST_NOEXEC: unix.MOUNT_ATTR_NOEXEC, unix.ST_NOATIME: unix.MOUNT_ATTR_NOATIME, unix.ST_NODIRATIME: unix.MOUNT_ATTR_NODIRATIME,
	} {
		if flags&st != 0 {
			have |= attr
		}
	}
	if flags&(unix.ST_NOATIME|unix.ST_RELATIME) == 0 {
		have |= unix.MOUNT_ATTR_STRICTATIME
	}
	if (o.Clear|o.RecClear)&have&locked != 0 || o.Atime && o.Set&atimes != have&atimes {
		return unix.EPERM
	}
	o.Keep = have & locked
	return nil
}
