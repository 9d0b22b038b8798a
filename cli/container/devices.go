package container

import (
	"errors"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"
)

// moreOptions are the flags of create and run for devices, for platforms that
// have what Linux has not, and those that are no more.
type moreOptions struct {
	gpus                                   opts.GpuOpts
	readBps, writeBps, readIOps, writeIOps opts.ThrottledeviceOpt
	weights                                opts.WeightdeviceOpt
	isolation                              string
	ioBandwidth, kernelMemory              string
	ioOps                                  uint64
	contentTrust                           bool
}

func (m *moreOptions) register(fs *pflag.FlagSet, o *createOptions) {
	m.readBps = opts.NewThrottledeviceOpt(opts.ValidateThrottleBpsDevice)
	m.writeBps = opts.NewThrottledeviceOpt(opts.ValidateThrottleBpsDevice)
	m.readIOps = opts.NewThrottledeviceOpt(opts.ValidateThrottleIOpsDevice)
	m.writeIOps = opts.NewThrottledeviceOpt(opts.ValidateThrottleIOpsDevice)
	m.weights = opts.NewWeightdeviceOpt(opts.ValidateWeightDevice)
	fs.Var(&m.gpus, "gpus", "GPU devices to add to the container ('all' to pass all GPUs)")
	fs.SetAnnotation("gpus", "version", []string{"1.40"})
	fs.Var(&m.weights, "blkio-weight-device", "Block IO weight (relative device weight)")
	fs.Var(&m.readBps, "device-read-bps", "Limit read rate (bytes per second) from a device")
	fs.Var(&m.writeBps, "device-write-bps", "Limit write rate (bytes per second) to a device")
	fs.Var(&m.readIOps, "device-read-iops", "Limit read rate (IO per second) from a device")
	fs.Var(&m.writeIOps, "device-write-iops", "Limit write rate (IO per second) to a device")
	fs.StringVar(&m.isolation, "isolation", "", "Container isolation technology")
	fs.Int64Var(&o.host.CPUCount, "cpu-count", 0, "CPU count (Windows only)")
	fs.Int64Var(&o.host.CPUPercent, "cpu-percent", 0, "CPU percent (Windows only)")
	fs.StringVar(&m.ioBandwidth, "io-maxbandwidth", "", "Maximum IO bandwidth limit for the system drive (Windows only)")
	fs.Uint64Var(&m.ioOps, "io-maxiops", 0, "Maximum IOps limit for the system drive (Windows only)")
	fs.StringVar(&m.kernelMemory, "kernel-memory", "", "Kernel memory limit (deprecated)")
	fs.MarkDeprecated("kernel-memory", "and no longer supported by the kernel")
	fs.BoolVar(&m.contentTrust, "disable-content-trust", true, "Skip image verification (deprecated)")
	fs.MarkDeprecated("disable-content-trust", "support for docker content trust was removed")
	// Older names of flags.
	fs.StringArrayVar(&o.network, "net", nil, "Connect a container to a network")
	fs.StringArrayVar(&o.networkAlias, "net-alias", nil, "Add network-scoped alias for the container")
	fs.StringArrayVar(&o.host.DNSOptions, "dns-opt", nil, "Set DNS options")
	for _, hidden := range []string{"net", "net-alias", "dns-opt", "cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops"} {
		fs.MarkHidden(hidden)
	}
}

func (m *moreOptions) apply(h *container.HostConfig) error {
	h.DeviceRequests = m.gpus.Value()
	h.BlkioWeightDevice = m.weights.GetList()
	for _, l := range []struct {
		from *opts.ThrottledeviceOpt
		to   *[]*blkiodev.ThrottleDevice
	}{
		{&m.readBps, &h.BlkioDeviceReadBps}, {&m.writeBps, &h.BlkioDeviceWriteBps},
		{&m.readIOps, &h.BlkioDeviceReadIOps}, {&m.writeIOps, &h.BlkioDeviceWriteIOps},
	} {
		*l.to = l.from.GetList()
	}
	h.Isolation = container.Isolation(m.isolation)
	h.IOMaximumIOps = m.ioOps
	if m.ioBandwidth != "" {
		n, err := units.RAMInBytes(m.ioBandwidth)
		if err != nil || n < 0 {
			return errors.New("invalid argument for \"--io-maxbandwidth\" flag: " + m.ioBandwidth)
		}
		h.IOMaximumBandwidth = uint64(n)
	}
	return nil
}

// isDeviceName reports whether a value of --device is the name of a CDI device,
// vendor/class=name, and no path.
func isDeviceName(s string) bool {
	kind, name, ok := strings.Cut(s, "=")
	vendor, class, slash := strings.Cut(kind, "/")
	return ok && slash && vendor != "" && class != "" && name != "" && !strings.Contains(class, "/") && !strings.HasPrefix(s, "/")
}
