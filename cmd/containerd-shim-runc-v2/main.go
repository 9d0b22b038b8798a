// Command containerd-shim-runc-v2 supervises one container: it holds its input
// and output, writes its log, reaps its processes and outlives every daemon. It
// joins package shim to a runtime.
//
// containerd runs it with one of these actions as the last argument:
//
//	start   make a socket, start a server for it, and print its address
//	serve   be that server; the listening socket is fd 3
//	delete  clean up after a shim that died, and print how its container ended
//
// start is what any containerd asks for. serve is for ours, which has the socket
// already and so saves a process.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"lighter/internal/linux/selfexec"
	"lighter/internal/version"
	"lighter/shim/handover"
)

// config is the command line and the environment.
type config struct {
	namespace    string
	id           string
	grpcAddress  string
	ttrpcAddress string
	bundle       string
	debug        bool
	version      bool
	info         bool
	action       string
	pace         pace
}

func main() { os.Exit(runMain(usualPace)) }

// runMain is the program; it returns the exit code.
func runMain(p pace) int {
	tuneRuntime()
	cfg, err := parse(os.Args[1:])
	if err == nil {
		cfg.pace = p
		err = run(cfg)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "containerd-shim-runc-v2: %s\n", err)
		return 1
	}
	return 0
}

// tuneRuntime makes the process small: there are as many shims as containers.
func tuneRuntime() {
	runtime.MemProfileRate = 0 // its hash table alone is a megabyte that is never read
	debug.SetGCPercent(40)
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2) // one goroutine carries output while another answers
	}
}

func parse(args []string) (config, error) {
	var cfg config
	fs := flag.NewFlagSet("containerd-shim-runc-v2", flag.ContinueOnError)
	fs.StringVar(&cfg.namespace, "namespace", "", "containerd `namespace` of the container")
	fs.StringVar(&cfg.id, "id", "", "`id` of the container")
	fs.StringVar(&cfg.grpcAddress, "address", "", "containerd's gRPC `address`")
	fs.StringVar(&cfg.bundle, "bundle", "", "the container's bundle `directory` (for delete; default: beside the working directory)")
	fs.BoolVar(&cfg.debug, "debug", false, "log more")
	fs.BoolVar(&cfg.version, "v", false, "print the version and exit")
	fs.BoolVar(&cfg.version, "version", false, "print the version and exit")
	fs.BoolVar(&cfg.info, "info", false, "read runtime options (protobuf) from stdin, print a RuntimeInfo (protobuf) and exit")
	// containerd passes it to every shim; events go to TTRPC_ADDRESS instead.
	fs.String("publish-binary", "", "`path` of a program that publishes events (not needed)")
	fs.SetOutput(io.Discard) // main prints the error
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(os.Stdout)
			fs.PrintDefaults()
		}
		return cfg, err
	}
	if fs.NArg() > 1 {
		return cfg, fmt.Errorf("one action expected, not %q", fs.Args())
	}
	cfg.action = fs.Arg(0)
	cfg.ttrpcAddress = os.Getenv("TTRPC_ADDRESS")
	if cfg.version || cfg.info {
		return cfg, nil
	}
	if cfg.namespace == "" {
		return cfg, fmt.Errorf("-namespace is missing")
	}
	for name, value := range map[string]string{"-namespace": cfg.namespace, "-id": cfg.id} {
		// Both become parts of paths.
		if value != filepath.Base(value) || value == "." || value == ".." {
			return cfg, fmt.Errorf("%s %q is not a name", name, value)
		}
	}
	return cfg, nil
}

func run(cfg config) error {
	switch {
	case cfg.version:
		printVersion()
		return nil
	case cfg.info:
		return printInfo(os.Stdin, os.Stdout)
	}
	// A container must not be able to write the file that we run from, which a
	// forked child shows it as /proc/self/exe. This may execute us anew.
	if err := selfexec.Seal(); err != nil {
		return err
	}
	switch cfg.action {
	case "start":
		return start(cfg, os.Stdin, os.Stdout)
	case "serve":
		selfexec.RestoreLimits() // containers inherit them
		taken, err := handover.Taken()
		if err != nil {
			return err
		}
		return serve(cfg, taken, newLogger(cfg))
	case "delete":
		return deleteDead(cfg, os.Stdout, newLogger(cfg))
	case "":
		return fmt.Errorf("an action is missing: start, serve or delete")
	default:
		return fmt.Errorf("action %q is unknown: use start, serve or delete", cfg.action)
	}
}

func printVersion() {
	fmt.Printf("containerd-shim-runc-v2:\n  Version:    %s %s\n  Revision:   %s\n  Go version: %s\n",
		version.Product, version.Version, version.GitCommit, runtime.Version())
}

func newLogger(cfg config) *slog.Logger {
	level := slog.LevelInfo
	if cfg.debug {
		level = slog.LevelDebug
	}
	h := slog.NewTextHandler(lossyStderr{}, &slog.HandlerOptions{Level: level})
	return slog.New(h).With("component", "shim", "namespace", cfg.namespace, "container", cfg.id)
}
