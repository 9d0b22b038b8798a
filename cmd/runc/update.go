package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func updateFlags(fs *flagSet) {
	fs.string(new(string), "resources", "r", "FILE", "file with the resources as JSON; - is standard input")
	for _, f := range [][2]string{
		{"blkio-weight", "weight of block I/O, 10 to 1000"}, {"cpu-period", "CPU period in microseconds"},
		{"cpu-quota", "CPU time per period in microseconds"}, {"cpu-burst", "CPU burst in microseconds"},
		{"cpu-share", "CPU shares"}, {"cpu-rt-period", "realtime period in microseconds"},
		{"cpu-rt-runtime", "realtime CPU time per period in microseconds"}, {"cpuset-cpus", "CPUs to use"},
		{"cpuset-mems", "memory nodes to use"}, {"memory", "memory limit in bytes"}, {"cpu-idle", "1 for idle scheduling"},
		{"memory-reservation", "soft memory limit in bytes"}, {"memory-swap", "limit of memory and swap in bytes; -1 for none"},
		{"pids-limit", "limit of processes"}, {"l3-cache-schema", "not implemented"}, {"mem-bw-schema", "not implemented"},
		{"kernel-memory", "ignored, as by current kernels"}, {"kernel-memory-tcp", "ignored, as by current kernels"},
	} {
		fs.string(new(string), f[0], "", "VALUE", f[1])
	}
}

func runUpdate(ctx context.Context, a *app, fs *flagSet, args []string) error {
	if err := operands(args, 1, 1); err != nil {
		return err
	}
	for _, name := range []string{"l3-cache-schema", "mem-bw-schema"} {
		if fs.set[name] {
			return fmt.Errorf("update: --%s: not implemented", name)
		}
	}
	res := &specs.LinuxResources{}
	if path := fs.value("resources", ""); path != "" {
		if err := readResources(path, res); err != nil {
			return fmt.Errorf("update: %w", err)
		}
	} else if err := flagResources(fs, res); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	return a.rt.Update(ctx, args[0], res)
}

func readResources(path string, res *specs.LinuxResources) error {
	const limit = 1 << 20
	var r io.Reader = os.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		r = f
	}
	return json.NewDecoder(io.LimitReader(r, limit)).Decode(res)
}

// flagResources fills res with what the flags say. Groups of flags share a part of
// res that exists only if one of them was given.
func flagResources(fs *flagSet, res *specs.LinuxResources) error {
	var errs []error
	integer := func(name string) *int64 {
		v, ok := fs.given[name]
		if !ok {
			return nil
		}
		n, err := parseBytes(v)
		if err != nil {
			errs = append(errs, fmt.Errorf("invalid value for %s: %w", name, err))
		}
		return &n
	}
	unsigned := func(name string) *uint64 {
		n := integer(name)
		if n == nil {
			return nil
		}
		if *n < 0 {
			errs = append(errs, fmt.Errorf("invalid value for %s: %d is negative", name, *n))
		}
		u := uint64(*n)
		return &u
	}
	cpu := specs.LinuxCPU{
		Period: unsigned("cpu-period"), Quota: integer("cpu-quota"), Burst: unsigned("cpu-burst"), Shares: unsigned("cpu-share"),
		RealtimePeriod: unsigned("cpu-rt-period"), RealtimeRuntime: integer("cpu-rt-runtime"), Cpus: fs.value("cpuset-cpus", ""),
		Mems: fs.value("cpuset-mems", ""), Idle: integer("cpu-idle"),
	}
	if cpu != (specs.LinuxCPU{}) {
		res.CPU = &cpu
	}
	memory := specs.LinuxMemory{Limit: integer("memory"), Reservation: integer("memory-reservation"), Swap: integer("memory-swap")}
	if memory != (specs.LinuxMemory{}) {
		res.Memory = &memory
	}
	if n := integer("pids-limit"); n != nil {
		res.Pids = &specs.LinuxPids{Limit: n}
	}
	if n := unsigned("blkio-weight"); n != nil {
		if *n > 1<<16-1 {
			errs = append(errs, fmt.Errorf("invalid value for blkio-weight: %d", *n))
		}
		w := uint16(*n)
		res.BlockIO = &specs.LinuxBlockIO{Weight: &w}
	}
	return errors.Join(errs...)
}

// parseBytes parses a number with an optional binary unit: k, m, g, t, each also
// followed by b.
func parseBytes(s string) (int64, error) {
	number, shift := s, 0
	if n := len(number); n > 1 && (number[n-1] == 'b' || number[n-1] == 'B') {
		number = number[:n-1]
	}
	if n := len(number); n > 1 {
		switch number[n-1] | 0x20 {
		case 'k':
			shift = 10
		case 'm':
			shift = 20
		case 'g':
			shift = 30
		case 't':
			shift = 40
		}
		if shift > 0 {
			number = number[:n-1]
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n<<shift>>shift != n {
		return 0, fmt.Errorf("bad size %q", s)
	}
	return n << shift, nil
}
