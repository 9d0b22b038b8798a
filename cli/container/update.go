package container

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"lighter/cli/session"
)

func newUpdateCommand(s *session.Session) *cobra.Command {
	var o createOptions
	var remove removals
	cmd := &cobra.Command{
		Use: "update [OPTIONS] CONTAINER [CONTAINER...]", Short: "Update configuration of one or more containers", Args: session.AtLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			fs := cmd.Flags()
			if fs.NFlag() == 0 {
				return errors.New("you must provide one or more flags when using this command")
			}
			change, err := o.reconfiguration(&remove)
			if err != nil {
				return err
			}
			limits := false // what the Engine API's update knows
			fs.Visit(func(f *pflag.Flag) { limits = limits || !slices.Contains(reconfigureFlags, f.Name) })
			if err := o.resources(fs); err != nil {
				return err
			}
			update := client.ContainerUpdateOptions{Resources: &o.host.Resources}
			if o.restart != "" {
				policy, err := restartPolicy(o.restart)
				if err != nil {
					return err
				}
				update.RestartPolicy = &policy
			}
			c, err := s.Client()
			if err != nil {
				return err
			}
			var warnings []string
			err = s.Each(args, func(name string) error {
				if limits {
					res, err := c.ContainerUpdate(cmd.Context(), name, update)
					warnings = append(warnings, res.Warnings...)
					if err != nil {
						return err
					}
				}
				if change == nil {
					return nil
				}
				var res container.UpdateResponse
				err := s.Post(cmd.Context(), "/containers/"+name+"/reconfigure", nil, change, &res)
				warnings = append(warnings, res.Warnings...)
				return err
			})
			for _, w := range warnings {
				fmt.Fprintln(s.Err, w)
			}
			return err
		},
	}
	fs, h := cmd.Flags(), &o.host
	fs.Uint16Var(&h.BlkioWeight, "blkio-weight", 0, "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)")
	fs.Int64Var(&h.CPUPeriod, "cpu-period", 0, "Limit CPU CFS (Completely Fair Scheduler) period")
	fs.Int64Var(&h.CPUQuota, "cpu-quota", 0, "Limit CPU CFS (Completely Fair Scheduler) quota")
	fs.Int64Var(&h.CPURealtimePeriod, "cpu-rt-period", 0, "Limit the CPU real-time period in microseconds")
	fs.Int64Var(&h.CPURealtimeRuntime, "cpu-rt-runtime", 0, "Limit the CPU real-time runtime in microseconds")
	fs.Int64VarP(&h.CPUShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	fs.StringVar(&o.cpus, "cpus", "", "Number of CPUs")
	fs.StringVar(&h.CpusetCpus, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	fs.StringVar(&h.CpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	fs.StringVarP(&o.memory, "memory", "m", "", "Memory limit")
	fs.StringVar(&o.memoryRes, "memory-reservation", "", "Memory soft limit")
	fs.StringVar(&o.memorySwap, "memory-swap", "", "Swap limit equal to memory plus swap: -1 to enable unlimited swap")
	fs.Int64Var(&o.pidsLimit, "pids-limit", 0, "Tune container pids limit (set -1 for unlimited)")
	fs.StringVar(&o.restart, "restart", "", "Restart policy to apply when a container exits")
	o.registerReconfigure(fs, &remove)
	return cmd
}

// reconfigureFlags are the flags of update that this engine adds to Docker's.
var reconfigureFlags = []string{
	"publish", "publish-rm", "env", "env-file", "env-rm", "label", "label-file", "label-rm", "volume", "mount", "mount-rm",
}

// removals are what a change takes away.
type removals struct{ publish, env, labels, mounts []string }

func (o *createOptions) registerReconfigure(fs *pflag.FlagSet, r *removals) {
	const again = "; the container is stopped and started again"
	fs.StringArrayVarP(&o.publish, "publish", "p", nil, "Publish a container's port(s) to the host"+again)
	fs.StringArrayVar(&r.publish, "publish-rm", nil, "Publish a container's port(s) no more"+again)
	fs.StringArrayVarP(&o.env, "env", "e", nil, "Set environment variables"+again)
	fs.StringArrayVar(&o.envFiles, "env-file", nil, "Read in a file of environment variables"+again)
	fs.StringArrayVar(&r.env, "env-rm", nil, "Remove environment variables"+again)
	fs.StringArrayVarP(&o.labels, "label", "l", nil, "Set meta data on a container")
	fs.StringArrayVar(&o.labelFiles, "label-file", nil, "Read in a line delimited file of labels")
	fs.StringArrayVar(&r.labels, "label-rm", nil, "Remove meta data from a container")
	fs.StringArrayVarP(&o.volumes, "volume", "v", nil, "Bind mount a volume"+again)
	fs.StringArrayVar(&o.mounts, "mount", nil, "Attach a filesystem mount to the container"+again)
	fs.StringArrayVar(&r.mounts, "mount-rm", nil, "Remove the mount at a path in the container"+again)
}

// reconfiguration is what this engine's addition to the API is sent.
type reconfiguration struct {
	Publish      network.PortMap
	Unpublish    []network.Port
	Env          []string
	EnvRemove    []string
	Labels       map[string]string
	LabelsRemove []string
	Binds        []string
	Mounts       []mount.Mount
	Volumes      []string
	Unmount      []string
}

// reconfiguration makes the request of the flags, nil when there are none.
func (o *createOptions) reconfiguration(r *removals) (*reconfiguration, error) {
	flags := [][]string{o.publish, o.env, o.envFiles, o.labels, o.labelFiles, o.volumes, o.mounts, r.publish, r.env, r.labels, r.mounts}
	if len(slices.Concat(flags...)) == 0 {
		return nil, nil
	}
	if err := o.updatable(); err != nil {
		return nil, err
	}
	c := &reconfiguration{
		Publish: o.host.PortBindings,
		Env:     o.config.Env, EnvRemove: r.env,
		Labels: o.config.Labels, LabelsRemove: r.labels,
		Binds: o.host.Binds, Mounts: o.host.Mounts, Volumes: slices.Collect(maps.Keys(o.config.Volumes)), Unmount: r.mounts,
	}
	for _, spec := range r.publish {
		ports, err := network.ParsePortRange(spec)
		if err != nil {
			return nil, fmt.Errorf("invalid argument %q for \"--publish-rm\" flag: %w", spec, err)
		}
		c.Unpublish = slices.AppendSeq(c.Unpublish, ports.All())
	}
	return c, nil
}
