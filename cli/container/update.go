package container

import (
	"errors"
	"fmt"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/session"
)

func newUpdateCommand(s *session.Session) *cobra.Command {
	var o createOptions
	cmd := &cobra.Command{
		Use: "update [OPTIONS] CONTAINER [CONTAINER...]", Short: "Update configuration of one or more containers", Args: session.AtLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			fs := cmd.Flags()
			if fs.NFlag() == 0 {
				return errors.New("you must provide one or more flags when using this command")
			}
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
				res, err := c.ContainerUpdate(cmd.Context(), name, update)
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
	return cmd
}
