// dockerd is the engine's daemon: it serves the Engine API on sockets and runs
// containers through containerd, which it embeds unless --containerd names one.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"lighter/internal/daemon"
	"lighter/internal/version"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	cfg, err := loadConfig(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		usage(stdout)
		return 0
	case err != nil:
		fmt.Fprintln(stderr, err)
		if _, ok := errors.AsType[*pflag.NotExistError](err); ok {
			fmt.Fprintln(stderr, "See 'dockerd --help'.")
		}
		return 1
	case cfg.version:
		fmt.Fprintf(stdout, "Docker version %s, build %s (%s)\n", version.Version, version.GitCommit, version.Product)
		return 0
	case cfg.validate:
		fmt.Fprintln(stderr, "configuration OK")
		return 0
	}
	state := &daemonState{level: new(slog.LevelVar)}
	state.apply(cfg)
	log := daemon.NewLogger(stderr, state.level, cfg.LogFormat == "json")
	if os.Geteuid() != 0 {
		log.Error("dockerd needs to be started with root privileges")
		return 1
	}
	ctx, stop := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 4) // three to insist, one to spare
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	hangups := make(chan os.Signal, 1) // one that waits stands for any number
	signal.Notify(hangups, syscall.SIGHUP)
	dumps := make(chan os.Signal, 1)
	signal.Notify(dumps, syscall.SIGUSR1)
	signal.Ignore(syscall.SIGPIPE)
	go func() {
		for n := 1; ; n++ {
			sig := <-signals
			log.Info("stopping", "signal", sig.String())
			stop(fmt.Errorf("received %s", sig))
			if n > 3 {
				os.Exit(128 + int(sig.(syscall.Signal)))
			}
		}
	}()
	if err := serve(ctx, cfg, state, hangups, dumps, log); err != nil {
		log.Error("failed to start daemon", "err", err)
		return 1
	}
	return 0
}

func usage(w io.Writer) {
	fmt.Fprintf(w, "Usage:  dockerd [OPTIONS]\n\nA self-sufficient runtime for containers (%s).\n\nOptions:\n%s",
		version.Product, defaultConfig().flags().FlagUsages())
}

func parseLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "trace", "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error", "fatal", "panic":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("invalid logging level: %q", s)
}
