// Command containerd is the supervisor of containers as a daemon: content,
// snapshots, images and tasks over gRPC, for clients of containerd.
//
// It exits 0 after SIGTERM or SIGINT, leaving containers running, and 1 on an
// error.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"

	"lighter/internal/daemon"
	"lighter/internal/version"
)

const usage = `Usage: containerd [OPTIONS] [COMMAND]

Supervisor of containers (%s).

Commands:
  config default   Print the default configuration
  config dump      Print the configuration in effect
  config migrate   Print the configuration file in the newest form
  oci-hook         Run a program as a hook of a container, {{id}}, {{ns}},
                   {{bundle}}, {{rootfs}}, {{pid}} and {{annotation KEY}}
                   in its arguments filled in
  publish          Publish an event, read from standard input, to the daemon

Options:
%s`

func main() {
	err := run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintf(os.Stderr, "containerd: %v\n", err)
		os.Exit(1)
	}
}

// flags are the command line.
type flags struct {
	*pflag.FlagSet
	config, address, root, state, logLevel string
	namespace, topic                       string
	version, help                          bool
}

func newFlags() *flags {
	f := &flags{FlagSet: pflag.NewFlagSet("containerd", pflag.ContinueOnError)}
	f.SortFlags = false
	f.StringVarP(&f.config, "config", "c", defaultConfigPath, "Path to the configuration file")
	f.StringVarP(&f.logLevel, "log-level", "l", "", "Level of the log (trace, debug, info, warn, error, fatal, panic)")
	f.StringVarP(&f.address, "address", "a", "", "Path of the gRPC socket")
	f.StringVar(&f.root, "root", "", "Directory of what survives a reboot")
	f.StringVar(&f.state, "state", "", "Directory of what does not")
	f.StringVar(&f.namespace, "namespace", "", "With publish: namespace of the event")
	f.StringVar(&f.topic, "topic", "", "With publish: topic of the event")
	f.BoolVarP(&f.version, "version", "v", false, "Print the version")
	f.BoolVarP(&f.help, "help", "h", false, "Show this help")
	return f
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	f := newFlags()
	f.SetOutput(io.Discard)
	if err := f.Parse(args); err != nil {
		return fmt.Errorf("%w: see 'containerd --help'", err)
	}
	command := f.Args()
	switch {
	case f.help:
		fmt.Fprintf(stdout, usage, version.Product, f.FlagUsages())
		return nil
	case f.version:
		fmt.Fprintf(stdout, "containerd %s %s %s\n", version.Product, version.Version, version.GitCommit)
		return nil
	case len(command) > 0 && command[0] == "publish":
		return publish(ctx, f, stdin)
	case len(command) > 0 && command[0] == "oci-hook":
		return ociHook(command[1:], stdin)
	case len(command) == 2 && command[0] == "config" && command[1] == "migrate":
		return migrate(f.config, stdout, stderr)
	case len(command) == 2 && command[0] == "config" && command[1] == "default":
		cfg := defaultConfig()
		cfg.Imports = []string{defaultImports}
		return cfg.write(stdout)
	}
	cfg, warnings, err := f.merged()
	if err != nil {
		return err
	}
	switch {
	case len(command) == 0:
		level, _ := parseLevel(cfg.Debug.Level) // validated
		log := daemon.NewLogger(stderr, level, cfg.Debug.Format == "json")
		for _, w := range warnings {
			log.Warn(w)
		}
		return serve(ctx, cfg, log)
	case len(command) == 2 && command[0] == "config" && command[1] == "dump":
		for _, w := range warnings {
			fmt.Fprintln(stderr, w)
		}
		return cfg.write(stdout)
	}
	return fmt.Errorf("unknown command %q: see 'containerd --help'", command)
}

// merged returns the configuration of file and flags; flags win.
func (f *flags) merged() (config, []string, error) {
	cfg, warnings, err := loadConfig(f.config, f.Changed("config"))
	if err != nil {
		return cfg, nil, err
	}
	for _, o := range []struct {
		flag string
		key  *string
	}{
		{f.address, &cfg.GRPC.Address}, {f.root, &cfg.Root}, {f.state, &cfg.State}, {f.logLevel, &cfg.Debug.Level},
	} {
		if o.flag != "" {
			*o.key = o.flag
		}
	}
	if err := cfg.validate(); err != nil {
		return cfg, nil, errors.Join(errors.New("invalid configuration"), err)
	}
	return cfg, warnings, nil
}
