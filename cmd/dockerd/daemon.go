package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"lighter/engine"
	"lighter/engine/authz"
	"lighter/engine/plugin"
	"lighter/engine/server"
	"lighter/internal/cleanup"
	"lighter/internal/daemon"
	"lighter/internal/version"
)

// requestGrace is how long requests under way may take to end at a stop.
const requestGrace = 5 * time.Second

// serve runs the daemon until ctx ends, then stops it cleanly. Each value of
// hangups has it read its configuration again, each of dumps write its stacks.
func serve(ctx context.Context, cfg *config, state *daemonState, hangups, dumps <-chan os.Signal, log *slog.Logger) (err error) {
	var undo cleanup.Stack
	defer func() { err = errors.Join(err, undo.Run()) }()

	if err := checkKernel(); err != nil {
		return err
	}
	for _, note := range cfg.notes() {
		log.Warn(note)
	}
	if err := setProxies(cfg.Proxies, log); err != nil {
		return err
	}
	if err := makeRoots(cfg); err != nil {
		return err
	}
	unlock, err := lockRoot(cfg.DataRoot)
	if err != nil {
		return err
	}
	undo.Add(unlock)
	unpid, err := writePidfile(cfg.Pidfile)
	if err != nil {
		return err
	}
	undo.Add(unpid)

	listeners, err := listenAll(cfg)
	if err != nil {
		return err
	}
	undo.Add(func() error {
		for _, l := range listeners {
			l.Close()
		}
		return nil
	})

	var metricsListener net.Listener
	if cfg.MetricsAddr != "" {
		if metricsListener, err = net.Listen("tcp", cfg.MetricsAddr); err != nil {
			return fmt.Errorf("listen for metrics: %w", err)
		}
		undo.Add(func() error { return ignoreClosed(metricsListener.Close()) })
	}

	services, address, closeServices, err := openContainerd(ctx, cfg, log)
	if err != nil {
		return err
	}
	undo.Add(closeServices)

	engineCfg, err := engineConfig(cfg, address)
	if err != nil {
		return err
	}
	eng, err := engine.Open(ctx, engineCfg, services, log)
	if err != nil {
		return err
	}
	undo.Add(func() error {
		stop, cancel := stopContext(ctx, int(state.shutdownSeconds.Load()))
		defer cancel()
		return eng.Close(stop)
	})

	authorization := authz.NewChain(plugin.DefaultDirs(), 0)
	if err := authorization.Set(ctx, cfg.Authorization); err != nil {
		return err
	}
	srv, err := server.New(eng.Backends(), server.Config{
		MinAPIVersion: cfg.MinAPIVersion,
		Experimental:  cfg.Experimental,
		Authorization: authorization,
		BuildKit:      func() bool { return !state.classicBuilder.Load() },
		Debug:         func() bool { return state.level.Level() <= slog.LevelDebug },
	}, log.With("component", "api"))
	if err != nil {
		return err
	}
	execRoot := cfg.ExecRoot // cfg is the goroutine's that reloads it
	group, groupCtx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		log.Info("API listen on " + l.Addr().String())
		group.Go(func() error { return srv.Serve(l) })
	}
	group.Go(func() error {
		for {
			select {
			case <-hangups:
				notify(log, "RELOADING=1\nMONOTONIC_USEC="+monotonicMicroseconds())
				cfg = reload(groupCtx, cfg, state, eng, authorization, address, log)
				notify(log, "READY=1")
			case <-groupCtx.Done():
				return nil
			}
		}
	})
	group.Go(func() error {
		<-groupCtx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestGrace)
		defer cancel()
		if err := srv.Shutdown(grace); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		for {
			select {
			case <-dumps:
				dumpStacks(execRoot, log)
			case <-groupCtx.Done():
				return nil
			}
		}
	})
	if cfg.MetricsAddr != "" {
		group.Go(func() error { return serveMetrics(groupCtx, metricsListener, eng.Metrics(), log) })
	}
	log.Info("Daemon has completed initialization", "version", version.Version, "containers", eng.Counts().Total)
	notify(log, "READY=1")
	err = group.Wait()
	notify(log, "STOPPING=1")
	return err
}

// monotonicMicroseconds is the time that sd_notify(3) wants with RELOADING=1.
func monotonicMicroseconds() string {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return "0"
	}
	return strconv.FormatInt(ts.Nano()/1000, 10)
}

// stopContext bounds the stop of all containers; seconds below zero wait for
// ever.
func stopContext(ctx context.Context, seconds int) (context.Context, context.CancelFunc) {
	ctx = context.WithoutCancel(ctx)
	if seconds < 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
}

// lookSibling finds a program of the product: beside this executable first, in
// PATH second; "" when it is in neither.
func lookSibling(name string) string {
	if self, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(self), name)
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return path
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}

// minimumKernel is the oldest release that has what the design rests on: a
// detached overlay mount, close_range, pidfds.
var minimumKernel = [2]int{5, 10}

func checkKernel() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return os.NewSyscallError("uname", err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return nil // an unknown scheme: let the features decide
	}
	if major < minimumKernel[0] || major == minimumKernel[0] && minor < minimumKernel[1] {
		return fmt.Errorf("Linux %s is too old: %s needs %d.%d or newer", release, version.Product, minimumKernel[0], minimumKernel[1])
	}
	return nil
}

func makeRoots(cfg *config) error {
	for _, dir := range []string{cfg.DataRoot, cfg.ExecRoot} {
		if err := os.MkdirAll(dir, 0o710); err != nil {
			return err
		}
	}
	return nil
}

// lockRoot keeps a second daemon off the data root for the life of the process.
func lockRoot(root string) (unlock func() error, err error) {
	path := filepath.Join(root, "dockerd.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data root: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := make([]byte, 16)
		n, _ := f.ReadAt(holder, 0)
		f.Close()
		return nil, fmt.Errorf("data root %s is in use by another daemon (pid %s): stop it or choose another --data-root", root, strings.TrimSpace(string(holder[:n])))
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the data root: %w", err)
	}
	return f.Close, nil
}

// writePidfile refuses when the file names a process that lives and is a
// dockerd.
func writePidfile(path string) (remove func() error, err error) {
	if path == "" {
		return func() error { return nil }, nil
	}
	if raw, err := os.ReadFile(path); err == nil {
		pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && pid != os.Getpid() && strings.TrimSpace(string(comm)) == "dockerd" {
			return nil, fmt.Errorf("process with PID %d is still running: ensure docker is not running or delete %s", pid, path)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return nil, fmt.Errorf("write pid file: %w", err)
	}
	return func() error { return ignoreNotExist(os.Remove(path)) }, nil
}

func listenAll(cfg *config) (all []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range all {
				l.Close()
			}
			err = fmt.Errorf("failed to load listeners: %w", err)
		}
	}()
	var tls *tls.Config
	if cfg.useTLS() {
		if tls, err = cfg.tlsConfig(); err != nil {
			return nil, err
		}
	}
	for _, h := range cfg.Hosts {
		list, err := listen(h, cfg.Group, tls)
		all = append(all, list...)
		if err != nil {
			return all, err
		}
	}
	// They are not for the programs that the daemon starts.
	for _, name := range []string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} {
		if err := os.Unsetenv(name); err != nil {
			return all, err
		}
	}
	return all, nil
}

func notify(log *slog.Logger, state string) {
	if err := daemon.Notify(state); err != nil {
		log.Warn("notify the service manager", "err", err)
	}
}
