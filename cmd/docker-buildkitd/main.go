// docker-buildkitd builds images for dockerd, which starts it on the first build
// and stops it when it is idle. It is not meant to be run by hand: what it
// inherits is described by package buildlink.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"lighter/builder"
	"lighter/containerd/remote"
	"lighter/internal/buildlink"
	"lighter/internal/daemon"
	"lighter/internal/version"
)

// maxConfigBytes bounds the configuration.
const maxConfigBytes = 1 << 20

// dialTimeout bounds the time in which containerd must answer.
const dialTimeout = 20 * time.Second

// memoryGoal is where the collector works harder: an ordinary build stays below.
const memoryGoal = 80 << 20

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Printf("docker-buildkitd version %s, build %s (%s)\n", version.Version, version.GitCommit, version.Product)
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "docker-buildkitd:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	began := time.Now()
	if len(os.Args) != 2 {
		return errors.New("dockerd starts this program on the first build; by hand it is of no use")
	}
	var cfg buildlink.Config
	if err := json.NewDecoder(io.LimitReader(os.Stdin, maxConfigBytes)).Decode(&cfg); err != nil {
		return fmt.Errorf("read configuration from standard input: dockerd starts this program on the first build: %w", err)
	}
	unix.CloseOnExec(buildlink.ListenerFD)
	unix.CloseOnExec(buildlink.LifelineFD)
	l, err := net.FileListener(os.NewFile(buildlink.ListenerFD, "listener"))
	if err != nil {
		return fmt.Errorf("take over listener: %w", err)
	}
	if err := builder.Isolate(); err != nil {
		return err
	}
	debug.SetMemoryLimit(memoryGoal)
	if err := os.Setenv("TMPDIR", filepath.Join(cfg.State, "tmp")); err != nil {
		return err
	}
	if err := mount.SetTempMountLocation(filepath.Join(cfg.State, "tmp")); err != nil {
		return err
	}
	level := slog.LevelInfo
	if cfg.Debug {
		level = slog.LevelDebug
	}
	log := daemon.NewLogger(os.Stderr, level, false)
	logrus.SetOutput(os.Stderr)
	logrus.AddHook(builder.RedactURLs{})
	if cfg.Debug {
		logrus.SetLevel(logrus.DebugLevel)
	} else {
		logrus.SetLevel(logrus.ErrorLevel) // its warnings are of the solver's own working
	}

	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	go func() {
		// Nothing is ever written: the read ends with dockerd. Then nobody needs
		// this process, and its steps end with it.
		_, _ = os.NewFile(buildlink.LifelineFD, "lifeline").Read(make([]byte, 1))
		os.Exit(3)
	}()
	dial, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	svc, conn, err := remote.Dial(dial, cfg.Containerd)
	if err != nil {
		return err
	}
	defer conn.Close()
	b, err := builder.Open(ctx, cfg, svc, log)
	if err != nil {
		return err
	}
	log.Info("build process is up", "dur", time.Since(began))
	return errors.Join(b.Serve(ctx, l), b.Close())
}
