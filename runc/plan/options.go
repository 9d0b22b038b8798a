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
		if a, ok := attrs[name]; ok {
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
	const all = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC |
		unix.MOUNT_ATTR_NOSYMFOLLOW
	return o.Set, o.Clear | all&^o.Set
}
