package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"lighter/engine/network/portmap"
	"lighter/internal/atomicfile"
)

// recordVersion is that of the files in StateDir:
//
//	networks/<network ID>.json    networkRecord, synced
//	networks/<network ID>.gone    the same, of a network being removed
//	networks/<network ID>.json.corrupt    one that could not be read, kept for people
//	sandboxes/<sandbox ID>.json   sandboxRecord, not synced
//	sandboxes/<sandbox ID>.gone   the same, of a sandbox being removed
//	forwarding, forwarding6       the boot ID for which it was turned on
//	ula                           the prefix of IPv6 subnets that nobody chose
const recordVersion = 1

// networkRecord is a network as it is stored.
type networkRecord struct {
	Version int
	// Network is the definition as inspect shows it.
	Network network.Network
	// Bridge is the link on the host, "" for the networks host and none.
	Bridge string `json:",omitempty"`
	// Addr and Addr6 are the gateway's addresses with the prefix length of the
	// subnet; a network that does not have a family has no address of it.
	Addr  netip.Prefix `json:",omitzero"`
	Addr6 netip.Prefix `json:",omitzero"`
	// Parent is the link of the host that the links of a macvlan or ipvlan network
	// share.
	Parent string `json:",omitempty"`
	// Made says that the link (Bridge or Parent) is ours to remove.
	Made bool `json:",omitempty"`
	// UserSubnet says that the user chose the subnet, and may choose addresses.
	UserSubnet  bool `json:",omitempty"`
	UserSubnet6 bool `json:",omitempty"`
}

// sandboxRecord is a container's part of the network as it is stored.
type sandboxRecord struct {
	Version   int
	SandboxID string
	Request   Request // as it was allocated, with networks by ID
	Endpoints []*endpointRecord
	Bindings  []portmap.Binding
}

// endpointRecord is a container's connection to one network.
type endpointRecord struct {
	NetworkID  string
	EndpointID string
	Settings   *network.EndpointSettings // as requested
	// The rest is empty for the networks host and none.
	Link     string               `json:",omitempty"` // on the host, if the driver has one there
	IfName   string               `json:",omitempty"` // in the container
	Addr     netip.Prefix         `json:",omitzero"`
	Addr6    netip.Prefix         `json:",omitzero"`
	Gateway  netip.Addr           `json:",omitzero"` // zero on an internal network
	Gateway6 netip.Addr           `json:",omitzero"`
	MAC      network.HardwareAddr `json:",omitempty"`
}

// store reads and writes the records.
type store struct {
	dir string
	log *slog.Logger
}

const (
	liveSuffix = ".json"
	goneSuffix = ".gone"
	badSuffix  = ".corrupt"
)

func openStore(dir string, log *slog.Logger) (*store, error) {
	for _, d := range []string{dir, filepath.Join(dir, "networks"), filepath.Join(dir, "sandboxes")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("create network state directory: %w", err)
		}
	}
	return &store{dir, log}, nil
}

func (s *store) networkPath(id string) string {
	return filepath.Join(s.dir, "networks", id+liveSuffix)
}

func (s *store) sandboxPath(id string) string {
	return filepath.Join(s.dir, "sandboxes", id+liveSuffix)
}

// putNetwork stores r durably.
func (s *store) putNetwork(r *networkRecord) error {
	r.Version = recordVersion
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return atomicfile.Write(s.networkPath(r.Network.ID), data, 0o600)
}

// putSandbox stores r. It survives the process, not the machine, see the package
// comment.
func (s *store) putSandbox(r *sandboxRecord) error {
	r.Version = recordVersion
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return atomicfile.WriteVolatile(s.sandboxPath(r.SandboxID), data, 0o600)
}

// retire marks a record as being removed. What is retired already, or is not
// there, is no error.
func (s *store) retire(path string) error {
	err := os.Rename(path, strings.TrimSuffix(path, liveSuffix)+goneSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// forget removes a retired record, also one that could not be retired. No other
// has its name: every sandbox and every network has an ID of its own.
func (s *store) forget(path string) error {
	for _, name := range []string{path, strings.TrimSuffix(path, liveSuffix) + goneSuffix} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// load reads the records of one kind, those being removed apart. Sandbox files
// that cannot be read are from before a power cut and dropped. A network file
// that cannot be read is set aside and its loss logged: the others keep working.
// The record of a newer version is an error, so that going back harms nothing.
func load[R any](s *store, kind string, version func(*R) int) (live, gone []*R, err error) {
	dir := filepath.Join(s.dir, kind)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("read network records: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		ext := filepath.Ext(e.Name())
		if ext == badSuffix {
			continue
		}
		if ext != liveSuffix && ext != goneSuffix {
			os.Remove(path) // left by a write that a crash cut off
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, fmt.Errorf("read network record: %w", err)
		}
		r := new(R)
		err = json.Unmarshal(data, r)
		if err == nil && version(r) > recordVersion {
			return nil, nil, fmt.Errorf("network record %q has version %d, this program knows %d: start a newer one: %w", path, version(r), recordVersion, errdefs.ErrFailedPrecondition)
		}
		if err == nil && version(r) == 0 {
			err = errors.New("no version")
		}
		switch {
		case err != nil && kind == "networks" && ext == liveSuffix:
			s.log.Error("a network is lost: its record is damaged and set aside", "path", path+badSuffix, "err", err)
			if err := os.Rename(path, path+badSuffix); err != nil {
				return nil, nil, fmt.Errorf("set aside damaged network record: %w", err)
			}
		case err != nil:
			s.log.Warn("drop unreadable network record", "path", path, "err", err)
			os.Remove(path)
		case ext == goneSuffix:
			gone = append(gone, r)
		default:
			live = append(live, r)
		}
	}
	return live, gone, nil
}

// enabledForwarding reports whether this store's owner turned on IP forwarding
// since the machine booted; file says of which family.
func (s *store) enabledForwarding(file string) bool {
	data, err := os.ReadFile(filepath.Join(s.dir, file))
	return err == nil && len(data) > 0 && string(data) == bootID()
}

// setEnabledForwarding records that IP forwarding is about to be turned on.
func (s *store) setEnabledForwarding(file string) error {
	return atomicfile.WriteVolatile(filepath.Join(s.dir, file), []byte(bootID()), 0o600)
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
