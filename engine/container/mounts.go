package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/volume"
)

// checkMount validates a mount of the mounts API. With exists the source of a
// bind mount must be there.
func checkMount(m *mount.Mount, exists bool) error {
	if err := mountError(m, exists); err != nil {
		return invalid("invalid mount config for type %q: %s", m.Type, err)
	}
	return nil
}

var errSubpath = errors.New("subpath must be a relative path within the volume")

func mountError(m *mount.Mount, exists bool) error {
	for _, o := range []struct {
		name string
		set  bool
		typ  mount.Type
	}{
		{"BindOptions", m.BindOptions != nil, mount.TypeBind},
		{"VolumeOptions", m.VolumeOptions != nil, mount.TypeVolume},
		{"ImageOptions", m.ImageOptions != nil, mount.TypeImage},
		{"TmpfsOptions", m.TmpfsOptions != nil, mount.TypeTmpfs},
		{"ClusterOptions", m.ClusterOptions != nil, mount.TypeCluster},
	} {
		if o.set && m.Type != o.typ {
			return fmt.Errorf("field %s must not be specified", o.name)
		}
	}
	if m.Target == "" {
		return errors.New("field Target must not be empty")
	}
	if err := checkTarget(m.Target); err != nil {
		return err
	}
	switch m.Type {
	case mount.TypeBind:
		return bindError(m, exists)
	case mount.TypeVolume:
		if o := m.VolumeOptions; o != nil && o.Subpath != "" {
			if m.Source == "" {
				return errors.New("must not set Subpath when using anonymous volumes")
			}
			if !filepath.IsLocal(o.Subpath) {
				return errSubpath
			}
		}
		if m.ReadOnly && m.Source == "" {
			return errors.New("must not set ReadOnly mode when using anonymous volumes")
		}
	case mount.TypeTmpfs:
		if m.Source != "" {
			return errors.New("field Source must not be specified")
		}
		_, err := tmpfsOptions(m)
		return err
	case mount.TypeImage:
		if m.Source == "" {
			return errors.New("field Source must not be empty")
		}
		if o := m.ImageOptions; o != nil && o.Subpath != "" && !filepath.IsLocal(o.Subpath) {
			return errSubpath
		}
	default: // a cluster's volumes too: they are for services
		return errors.New("mount type unknown")
	}
	return nil
}

func bindError(m *mount.Mount, exists bool) error {
	if m.Source == "" {
		return errors.New("field Source must not be empty")
	}
	o := m.BindOptions
	if o != nil && o.Propagation != "" && !slices.Contains(mount.Propagations, o.Propagation) {
		return fmt.Errorf("invalid propagation mode: %s", o.Propagation)
	}
	if !path.IsAbs(m.Source) {
		return fmt.Errorf("invalid mount path: '%s' mount path must be absolute", m.Source)
	}
	if o != nil && o.ReadOnlyNonRecursive && o.ReadOnlyForceRecursive {
		return errors.New("mount options conflict: ReadOnlyNonRecursive && ReadOnlyForceRecursive")
	}
	if exists && (o == nil || !o.CreateMountpoint) {
		if _, err := os.Stat(m.Source); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("bind source path does not exist: %s", m.Source)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// checkTarget validates a path inside the container that is mounted over.
func checkTarget(p string) error {
	if path.Clean(p) == "/" {
		return errors.New("invalid specification: destination can't be '/'")
	}
	if !path.IsAbs(p) {
		return fmt.Errorf("invalid mount path: '%s' mount path must be absolute", p)
	}
	return nil
}

// checkFreshTarget is checkTarget for what is not of the host: a volume or a
// tmpfs below /proc would hide the kernel from the program, and the runtime
// refuses it at every start.
func checkFreshTarget(p string) error {
	if err := checkTarget(p); err != nil {
		return err
	}
	if clean := path.Clean(p); clean == "/proc" || strings.HasPrefix(clean, "/proc/") {
		return fmt.Errorf("invalid mount destination %q: it cannot be mounted because it is inside /proc", p)
	}
	return nil
}

// bindModes are the words of the third field of -v, by the group of which only
// one may stand.
var bindModes = map[string]string{
	"rw": "access", "ro": "access",
	"z": "label", "Z": "label",
	"nocopy": "copy", "copy": "copy",
	"consistent": "consistency", "cached": "consistency", "delegated": "consistency",
	"private": "propagation", "rprivate": "propagation", "shared": "propagation",
	"rshared": "propagation", "slave": "propagation", "rslave": "propagation",
}

func validMode(mode string) bool {
	if mode == "" {
		return true
	}
	seen := map[string]bool{}
	for word := range strings.SplitSeq(mode, ",") {
		group, ok := bindModes[word]
		if !ok || seen[group] {
			return false
		}
		seen[group] = true
	}
	return true
}

// parseBind reads a value of -v: [source:]destination[:mode].
func parseBind(raw string) (mountPoint, error) {
	fail := invalid("invalid volume specification: '%s'", raw)
	parts := strings.Split(raw, ":")
	if parts[0] == "" || len(parts) > 3 || len(parts) == 2 && validMode(parts[1]) {
		return mountPoint{}, fail
	}
	m := mount.Mount{Target: parts[0]}
	mode := ""
	if len(parts) > 1 {
		m.Source, m.Target = parts[0], parts[1]
	}
	if len(parts) > 2 {
		mode = parts[2]
	}
	if !validMode(mode) {
		return mountPoint{}, invalid("invalid mode: %s", mode)
	}
	words := strings.Split(mode, ",")
	m.ReadOnly = slices.Contains(words, "ro")
	m.Type = mount.TypeVolume
	if path.IsAbs(m.Source) {
		m.Type = mount.TypeBind
	}
	for _, word := range words {
		switch {
		case word == "nocopy":
			m.VolumeOptions = &mount.VolumeOptions{NoCopy: true}
		case bindModes[word] == "propagation":
			m.BindOptions = &mount.BindOptions{Propagation: mount.Propagation(word)}
		}
	}
	if err := mountError(&m, false); err != nil {
		return mountPoint{}, invalid("invalid volume specification: '%s': invalid mount config for type %q: %s", raw, m.Type, err)
	}
	p := newMountPoint(m)
	p.Mode = mode
	p.CreateDir = m.Type == mount.TypeBind
	if m.Type == mount.TypeVolume && mode == "" && m.Source != "" {
		p.Mode = "z" // Docker compatibility: what inspect shows of a named volume
	}
	return p, nil
}

func newMountPoint(m mount.Mount) mountPoint {
	p := mountPoint{Type: m.Type, Destination: path.Clean(m.Target), RW: !m.ReadOnly, Spec: &m}
	switch m.Type {
	case mount.TypeVolume:
		p.Name = m.Source
		p.CopyUp = m.VolumeOptions == nil || !m.VolumeOptions.NoCopy
	case mount.TypeImage:
		p.Name, p.RW = m.Source, false
	case mount.TypeBind:
		p.Source = path.Clean(m.Source)
		p.Propagation = mount.PropagationRPrivate
		if o := m.BindOptions; o != nil {
			if o.Propagation != "" {
				p.Propagation = o.Propagation
			}
			p.CreateDir = o.CreateMountpoint
		}
	}
	return p
}

// mountPoints collects the mounts of a container to be created, in Docker's order
// of precedence: other containers' volumes, -v, --mount, and the volumes that
// the image or the request declare. Nothing is created yet.
func (m *Manager) mountPoints(r *record) ([]mountPoint, error) {
	var all []mountPoint
	index := map[string]int{}
	for _, from := range r.HostConfig.VolumesFrom {
		shared, err := m.volumesFrom(from)
		if err != nil {
			return nil, err
		}
		for _, p := range shared {
			if i, ok := index[p.Destination]; ok {
				all[i] = p
				continue
			}
			index[p.Destination] = len(all)
			all = append(all, p)
		}
	}
	own := map[string]bool{}
	add := func(p mountPoint) error {
		if p.Type != mount.TypeBind {
			if err := checkFreshTarget(p.Destination); err != nil {
				return invalid("%s", err)
			}
		}
		if _, tmpfs := r.HostConfig.Tmpfs[p.Destination]; tmpfs || own[p.Destination] {
			return invalid("Duplicate mount point: %s", p.Destination)
		}
		own[p.Destination] = true
		if i, ok := index[p.Destination]; ok {
			all[i] = p
			return nil
		}
		index[p.Destination] = len(all)
		all = append(all, p)
		return nil
	}
	for _, raw := range r.HostConfig.Binds {
		p, err := parseBind(raw)
		if err != nil {
			return nil, err
		}
		if err := add(p); err != nil {
			return nil, err
		}
	}
	for i := range r.HostConfig.Mounts {
		if err := add(newMountPoint(r.HostConfig.Mounts[i])); err != nil {
			return nil, err
		}
	}
	for dest := range r.Config.Volumes {
		dest = path.Clean(dest)
		if err := checkFreshTarget(dest); err != nil {
			return nil, invalid("%s", err)
		}
		_, mounted := index[dest]
		_, tmpfs := r.HostConfig.Tmpfs[dest]
		if mounted || tmpfs {
			continue
		}
		index[dest] = len(all)
		all = append(all, mountPoint{Type: mount.TypeVolume, Destination: dest, RW: true, CopyUp: true})
	}
	sortMounts(all)
	return all, nil
}

// sortMounts puts parents first, so that a mount is not hidden by one above it.
func sortMounts(all []mountPoint) {
	slices.SortStableFunc(all, func(a, b mountPoint) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
}

// volumesFrom returns the mounts of the container named in id[:ro|rw].
func (m *Manager) volumesFrom(spec string) ([]mountPoint, error) {
	ref, mode, _ := strings.Cut(spec, ":")
	if ref == "" {
		return nil, invalid("volumes-from specification cannot be an empty string")
	}
	for word := range strings.SplitSeq(mode, ",") {
		if group := bindModes[word]; word != "" && group != "access" && group != "label" {
			return nil, invalid("invalid mode: %s", mode)
		}
	}
	e, err := m.lookup(ref)
	if err != nil {
		return nil, invalid("%s", err) // what is wrong is the request, not its path
	}
	shared := slices.Clone(e.rec.Load().Mounts)
	for i := range shared {
		shared[i].Anonymous = false // its creator removes it
		shared[i].CopyUp = false
		if slices.Contains(strings.Split(mode, ","), "ro") {
			shared[i].RW = false
		}
	}
	return shared, nil
}

// acquireVolumes makes or finds the volumes of r and records their directories.
// The caller releases them when it fails.
func (m *Manager) acquireVolumes(ctx context.Context, r *record) error {
	for i := range r.Mounts {
		p := &r.Mounts[i]
		if p.Type != mount.TypeVolume {
			continue
		}
		req := volume.CreateRequest{Name: p.Name, Driver: r.volumeDriver(p)}
		if p.Spec != nil && p.Spec.VolumeOptions != nil {
			req.Labels = p.Spec.VolumeOptions.Labels
			if d := p.Spec.VolumeOptions.DriverConfig; d != nil {
				req.Driver, req.DriverOpts = d.Name, d.Options
			}
		}
		p.Anonymous = p.Name == ""
		v, _, err := m.Volumes.Acquire(ctx, req, r.ID)
		if err != nil {
			return err
		}
		p.Name, p.Source = v.Name, v.Mountpoint
	}
	return nil
}

// mountVolumes mounts the volumes of r that have something to mount, and returns r
// with the directories that they are found in. unmountVolumes is its counterpart,
// also after an error.
func (m *Manager) mountVolumes(ctx context.Context, r *record) (*record, error) {
	c := *r
	c.Mounts = slices.Clone(r.Mounts)
	for i := range c.Mounts {
		p := &c.Mounts[i]
		if p.Type != mount.TypeVolume {
			continue
		}
		var err error
		if p.Source, err = m.Volumes.Mount(ctx, p.Name, r.ID); err != nil {
			return nil, err
		}
	}
	return &c, nil
}

func (m *Manager) unmountVolumes(r *record) error {
	var errs []error
	for _, p := range r.Mounts {
		if p.Type == mount.TypeVolume {
			errs = append(errs, m.Volumes.Unmount(p.Name, r.ID))
		}
	}
	return errors.Join(errs...)
}

// releaseVolumes forgets r's use of its volumes, and with remove deletes the
// anonymous ones that nothing else uses.
func (m *Manager) releaseVolumes(ctx context.Context, r *record, remove bool) error {
	var errs []error
	for _, p := range r.Mounts {
		if p.Type != mount.TypeVolume || p.Name == "" {
			continue
		}
		m.Volumes.Release(p.Name, r.ID)
		if !remove || !p.Anonymous {
			continue
		}
		if err := m.Volumes.Remove(ctx, p.Name, true); err != nil && !isConflict(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// tmpfsOptions returns the mount options of a tmpfs of the mounts API.
func tmpfsOptions(m *mount.Mount) ([]string, error) {
	var opts []string
	if m.ReadOnly {
		opts = append(opts, "ro")
	}
	o := m.TmpfsOptions
	if o == nil {
		return opts, nil
	}
	if o.Mode != 0 {
		opts = append(opts, fmt.Sprintf("mode=%o", o.Mode))
	}
	if o.SizeBytes != 0 {
		opts = append(opts, "size="+strconv.FormatInt(o.SizeBytes, 10))
	}
	for _, opt := range o.Options {
		if len(opt) < 1 || len(opt) > 2 {
			return nil, errors.New("invalid option array length")
		}
		if opt[0] != "exec" && opt[0] != "noexec" {
			return nil, errors.New("invalid option: " + opt[0])
		}
		opts = append(opts, strings.Join(opt, "="))
	}
	return opts, nil
}

// volumeDriver is the driver that --volume-driver names for the volumes of -v and
// of the image; those that exist keep theirs.
func (r *record) volumeDriver(p *mountPoint) string {
	if p.Spec != nil && p.Spec.VolumeOptions != nil && p.Spec.VolumeOptions.DriverConfig != nil {
		return ""
	}
	return r.HostConfig.VolumeDriver
}
