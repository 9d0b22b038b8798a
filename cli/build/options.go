// Package build is docker build: it sends a build to the engine's BuildKit, gives
// it the context, secrets and credentials over a session, and shows its progress.
// It links BuildKit's client and belongs to cmd/docker-build alone.
package build

import (
	"github.com/docker/cli/opts"
	"github.com/spf13/cobra"

	"lighter/cli/session"
)

// options are docker build's flags.
type options struct {
	context string

	file, target, platform            string
	tags, buildArgs, labels           []string
	annotations                       []string
	noCache, pull, quiet              bool
	noCacheFilter, addHosts           []string
	network, cgroupParent             string
	secrets, ssh, outputs             []string
	cacheFrom, cacheTo, buildContexts []string
	attests, allow                    []string
	provenance, sbom                  string
	progress, call                    string
	check, load, push                 bool
	iidFile, metadataFile             string
	shmSize, memory                   opts.MemBytes
	swap                              opts.MemSwapBytes
	ulimits                           *opts.UlimitOpt
	cpuShares, cpuPeriod, cpuQuota    int64
	cpusetCPUs, cpusetMems            string

	squash       bool
	securityOpts []string
	isolation    string
}

// Command is docker build.
func Command(s *session.Session) *cobra.Command {
	o := &options{ulimits: opts.NewUlimitOpt(nil)}
	cmd := &cobra.Command{
		Use:   "build [OPTIONS] PATH | URL | -",
		Short: "Build an image from a Dockerfile",
		Args:  session.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.context = args[0]
			return run(cmd.Context(), s, o)
		},
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&o.addHosts, "add-host", nil, `Add a custom host-to-IP mapping (format: "host:ip")`)
	fs.StringArrayVar(&o.allow, "allow", nil, `Allow extra privileged entitlement (e.g., "network.host", "security.insecure")`)
	fs.StringArrayVar(&o.annotations, "annotation", nil, "Add annotation to the image")
	fs.StringArrayVar(&o.attests, "attest", nil, `Attestation parameters (format: "type=sbom,generator=image")`)
	fs.StringArrayVar(&o.buildArgs, "build-arg", nil, "Set build-time variables")
	fs.StringArrayVar(&o.buildContexts, "build-context", nil, "Additional build contexts (e.g., name=path)")
	fs.StringArrayVar(&o.cacheFrom, "cache-from", nil, `External cache sources (e.g., "user/app:cache", "type=local,src=path/to/dir")`)
	fs.StringArrayVar(&o.cacheTo, "cache-to", nil, `Cache export destinations (e.g., "user/app:cache", "type=local,dest=path/to/dir")`)
	fs.StringVar(&o.call, "call", "build", `Set method for evaluating build ("check", "outline", "targets")`)
	fs.StringVar(&o.cgroupParent, "cgroup-parent", "", "Set the parent cgroup for the RUN instructions during build")
	fs.BoolVar(&o.check, "check", false, `Shorthand for "--call=check"`)
	fs.Int64VarP(&o.cpuShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	fs.Int64Var(&o.cpuPeriod, "cpu-period", 0, "Limit the CPU CFS (Completely Fair Scheduler) period")
	fs.Int64Var(&o.cpuQuota, "cpu-quota", 0, "Limit the CPU CFS (Completely Fair Scheduler) quota")
	fs.StringVar(&o.cpusetCPUs, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	fs.StringVar(&o.cpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	fs.StringVarP(&o.file, "file", "f", "", `Name of the Dockerfile (default: "PATH/Dockerfile")`)
	fs.StringVar(&o.iidFile, "iidfile", "", "Write the image ID to a file")
	fs.StringArrayVar(&o.labels, "label", nil, "Set metadata for an image")
	fs.BoolVar(&o.load, "load", false, `Shorthand for "--output=type=docker"`)
	fs.VarP(&o.memory, "memory", "m", "Memory limit")
	fs.Var(&o.swap, "memory-swap", `Swap limit equal to memory plus swap: "-1" to enable unlimited swap`)
	fs.StringVar(&o.metadataFile, "metadata-file", "", "Write build result metadata to a file")
	fs.StringVar(&o.network, "network", "default", "Set the networking mode for the RUN instructions during build")
	fs.BoolVar(&o.noCache, "no-cache", false, "Do not use cache when building the image")
	fs.StringSliceVar(&o.noCacheFilter, "no-cache-filter", nil, "Do not cache specified stages")
	fs.StringArrayVarP(&o.outputs, "output", "o", nil, `Output destination (format: "type=local,dest=path")`)
	fs.StringVar(&o.platform, "platform", "", "Set target platform for build")
	fs.StringVar(&o.progress, "progress", "", `Set type of progress output ("auto", "none", "plain", "quiet", "rawjson", "tty"). Use plain to show container output`)
	fs.StringVar(&o.provenance, "provenance", "", `Shorthand for "--attest=type=provenance"`)
	fs.BoolVar(&o.pull, "pull", false, "Always attempt to pull all referenced images")
	fs.BoolVar(&o.push, "push", false, `Shorthand for "--output=type=registry"`)
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "Suppress the build output and print image ID on success")
	fs.StringVar(&o.sbom, "sbom", "", `Shorthand for "--attest=type=sbom"`)
	fs.StringArrayVar(&o.secrets, "secret", nil, `Secret to expose to the build (format: "id=mysecret[,src=/local/secret]")`)
	fs.Var(&o.shmSize, "shm-size", `Shared memory size for build containers`)
	fs.StringArrayVar(&o.ssh, "ssh", nil, `SSH agent socket or keys to expose to the build (format: "default|<id>[=<socket>|<key>[,<key>]]")`)
	fs.StringArrayVarP(&o.tags, "tag", "t", nil, `Name and optionally a tag (format: "name:tag")`)
	fs.StringVar(&o.target, "target", "", "Set the target build stage to build")
	fs.Var(o.ulimits, "ulimit", "Ulimit options")
	// Of the builder of old: those that cannot be honoured are refused by run,
	// the others describe what BuildKit does anyway.
	fs.BoolVar(&o.squash, "squash", false, "Squash newly built layers into a single new layer")
	fs.StringArrayVar(&o.securityOpts, "security-opt", nil, "Security options")
	fs.StringVar(&o.isolation, "isolation", "", "Container isolation technology")
	fs.Bool("rm", true, "Remove intermediate containers after a successful build")
	fs.Bool("force-rm", true, "Always remove intermediate containers")
	fs.Bool("compress", true, "Compress the build context using gzip")
	for _, name := range []string{"squash", "security-opt", "isolation", "rm", "force-rm", "compress"} {
		if err := fs.MarkHidden(name); err != nil {
			panic(err) // the flag is declared above
		}
	}
	return cmd
}
