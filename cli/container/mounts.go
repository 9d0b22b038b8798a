package container

import (
	"encoding/csv"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
)

// mounting splits -v into binds and anonymous volumes and adds --mount and
// --tmpfs.
func (o *createOptions) mounting() error {
	for _, v := range o.volumes {
		source, target, bound := strings.Cut(v, ":")
		if !bound {
			if o.config.Volumes == nil {
				o.config.Volumes = map[string]struct{}{}
			}
			o.config.Volumes[v] = struct{}{}
			continue
		}
		if strings.HasPrefix(source, ".") || strings.HasPrefix(source, "~/") {
			abs, err := absolute(source)
			if err != nil {
				return err
			}
			v = abs + ":" + target
		}
		o.host.Binds = append(o.host.Binds, v)
	}
	for _, t := range o.tmpfs {
		path, opts, _ := strings.Cut(t, ":")
		if o.host.Tmpfs == nil {
			o.host.Tmpfs = map[string]string{}
		}
		o.host.Tmpfs[path] = opts
	}
	for _, spec := range o.mounts {
		m, err := parseMount(spec)
		if err != nil {
			return fmt.Errorf("invalid argument %q for \"--mount\" flag: %w", spec, err)
		}
		o.host.Mounts = append(o.host.Mounts, m)
	}
	return nil
}

func absolute(path string) (string, error) {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		return filepath.Join(home, rest), nil
	}
	return filepath.Abs(path)
}

// parseMount parses the value of --mount, a comma-separated record.
func parseMount(spec string) (mount.Mount, error) {
	m := mount.Mount{Type: mount.TypeVolume}
	fields, err := csv.NewReader(strings.NewReader(spec)).Read()
	if err != nil {
		return m, err
	}
	bind := func() *mount.BindOptions {
		if m.BindOptions == nil {
			m.BindOptions = &mount.BindOptions{}
		}
		return m.BindOptions
	}
	vol := func() *mount.VolumeOptions {
		if m.VolumeOptions == nil {
			m.VolumeOptions = &mount.VolumeOptions{}
		}
		return m.VolumeOptions
	}
	tmpfs := func() *mount.TmpfsOptions {
		if m.TmpfsOptions == nil {
			m.TmpfsOptions = &mount.TmpfsOptions{}
		}
		return m.TmpfsOptions
	}
	for _, field := range fields {
		key, value, given := strings.Cut(field, "=")
		key = strings.ToLower(key)
		yes := func() (bool, error) {
			if !given {
				return true, nil
			}
			b, err := strconv.ParseBool(value)
			if err != nil {
				return false, fmt.Errorf("invalid value for '%s': %s", key, value)
			}
			return b, nil
		}
		switch key {
		case "type":
			m.Type = mount.Type(strings.ToLower(value))
		case "source", "src":
			m.Source = value
			if strings.HasPrefix(value, ".") {
				if m.Source, err = filepath.Abs(value); err != nil {
					return m, err
				}
			}
		case "target", "dst", "destination":
			m.Target = value
		case "readonly", "ro":
			m.ReadOnly, err = yes()
		case "consistency":
			m.Consistency = mount.Consistency(strings.ToLower(value))
		case "bind-propagation":
			bind().Propagation = mount.Propagation(strings.ToLower(value))
		case "bind-nonrecursive": // the older form of bind-recursive=disabled
			bind().NonRecursive, err = yes()
		case "bind-recursive":
			switch value {
			case "enabled":
			case "disabled":
				bind().NonRecursive = true
			case "writable":
				bind().ReadOnlyNonRecursive = true
			case "readonly":
				bind().ReadOnlyForceRecursive = true
			default:
				return m, fmt.Errorf("invalid value for bind-recursive: %s (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")", value)
			}
		case "bind-create-src":
			bind().CreateMountpoint, err = yes()
		case "volume-subpath":
			vol().Subpath = value
		case "volume-nocopy":
			vol().NoCopy, err = yes()
		case "volume-label":
			k, v, _ := strings.Cut(value, "=")
			if vol().Labels == nil {
				vol().Labels = map[string]string{}
			}
			vol().Labels[k] = v
		case "volume-driver", "volume-opt":
			if vol().DriverConfig == nil {
				vol().DriverConfig = &mount.Driver{}
			}
			if key == "volume-driver" {
				vol().DriverConfig.Name = value
				break
			}
			k, v, _ := strings.Cut(value, "=")
			if vol().DriverConfig.Options == nil {
				vol().DriverConfig.Options = map[string]string{}
			}
			vol().DriverConfig.Options[k] = v
		case "image-subpath":
			m.ImageOptions = &mount.ImageOptions{Subpath: value}
		case "tmpfs-size":
			tmpfs().SizeBytes, err = units.RAMInBytes(value)
		case "tmpfs-mode":
			var mode uint64
			mode, err = strconv.ParseUint(value, 8, 32)
			tmpfs().Mode = os.FileMode(mode)
		default:
			return m, fmt.Errorf("unknown option '%s' in '%s'", key, field)
		}
		if err != nil {
			return m, err
		}
	}
	forced := m.BindOptions != nil && m.BindOptions.ReadOnlyForceRecursive
	switch {
	case m.Target == "":
		return m, fmt.Errorf("target is required")
	case forced && !m.ReadOnly:
		return m, fmt.Errorf("option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction")
	case forced && m.BindOptions.Propagation != mount.PropagationRPrivate:
		return m, fmt.Errorf("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction")
	case m.BindOptions != nil && m.BindOptions.ReadOnlyNonRecursive && !m.ReadOnly:
		return m, fmt.Errorf("option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction")
	case m.BindOptions != nil && m.Type != mount.TypeBind:
		return m, fmt.Errorf("cannot mix 'bind-*' options with mount type '%s'", m.Type)
	case m.VolumeOptions != nil && m.Type != mount.TypeVolume:
		return m, fmt.Errorf("cannot mix 'volume-*' options with mount type '%s'", m.Type)
	case m.TmpfsOptions != nil && m.Type != mount.TypeTmpfs:
		return m, fmt.Errorf("cannot mix 'tmpfs-*' options with mount type '%s'", m.Type)
	}
	return m, nil
}

// publishing parses -p, -P and --expose.
func (o *createOptions) publishing() error {
	o.config.ExposedPorts, o.host.PortBindings = network.PortSet{}, network.PortMap{}
	o.host.PublishAllPorts = o.publishAll
	for _, spec := range o.publish {
		if err := publish(spec, o.config.ExposedPorts, o.host.PortBindings); err != nil {
			return err
		}
	}
	for _, spec := range o.expose {
		ports, err := network.ParsePortRange(spec)
		if err != nil {
			return fmt.Errorf("invalid range format for --expose: %s, error: %w", spec, err)
		}
		for p := range ports.All() {
			o.config.ExposedPorts[p] = struct{}{}
		}
	}
	return nil
}

// publish parses [[ip:][hostPort[-end]]:]containerPort[-end][/proto].
func publish(spec string, exposed network.PortSet, bindings network.PortMap) error {
	rest, proto, hasProto := strings.Cut(spec, "/")
	if !hasProto {
		proto = "tcp"
	}
	switch proto = strings.ToLower(proto); proto {
	case "tcp", "udp", "sctp":
	default:
		return fmt.Errorf("invalid proto: %s", proto)
	}
	var ip, host string
	containerPorts := rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		host, containerPorts = rest[:i], rest[i+1:]
		if j := strings.LastIndexByte(host, ':'); j >= 0 {
			ip, host = strings.Trim(host[:j], "[]"), host[j+1:]
		}
	}
	if containerPorts == "" {
		return fmt.Errorf("no port specified: %s<empty>", spec)
	}
	targets, err := network.ParsePortRange(containerPorts + "/" + proto)
	if err != nil {
		return fmt.Errorf("invalid containerPort: %s", containerPorts)
	}
	var addr netip.Addr
	if ip != "" {
		if addr, err = netip.ParseAddr(ip); err != nil {
			return fmt.Errorf("invalid IP address: %s", ip)
		}
	}
	count := int(targets.End()) - int(targets.Start()) + 1
	first, hostCount := 0, 0
	if host != "" && host != "0" {
		hosts, err := network.ParsePortRange(host)
		if err != nil {
			return fmt.Errorf("invalid hostPort: %s", host)
		}
		first, hostCount = int(hosts.Start()), int(hosts.End())-int(hosts.Start())+1
		if hostCount != count && count != 1 {
			return fmt.Errorf("invalid ranges specified for container and host Ports: %s and %s", containerPorts, host)
		}
	}
	i := 0
	for p := range targets.All() {
		b := network.PortBinding{HostIP: addr}
		switch {
		case hostCount == 0:
		case hostCount > 1 && count == 1: // the engine picks a free one of the range
			b.HostPort = fmt.Sprintf("%d-%d", first, first+hostCount-1)
		default:
			b.HostPort = strconv.Itoa(first + i)
		}
		exposed[p] = struct{}{}
		bindings[p] = append(bindings[p], b)
		i++
	}
	return nil
}
