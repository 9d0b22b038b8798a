package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// maxStacks bounds a dump, in bytes.
	maxStacks = 64 << 20
	// metricsTimeout bounds a request for the metrics.
	metricsTimeout = 30 * time.Second
)

// dumpStacks writes what all goroutines do to a file in dir, and says where.
func dumpStacks(dir string, log *slog.Logger) {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) || len(buf) >= maxStacks {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	stamp := strings.ReplaceAll(time.Now().Format(time.RFC3339Nano), ":", "")
	path := filepath.Join(dir, "goroutine-stacks-"+stamp+".log")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = f.Write(buf)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		log.Error("cannot write the goroutine stacks", "err", err)
		return
	}
	log.Info("goroutine stacks written to " + path)
}

// serveMetrics answers /metrics on l until ctx ends.
func serveMetrics(ctx context.Context, l net.Listener, metrics http.Handler, log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	srv := &http.Server{
		Handler: mux, ReadTimeout: metricsTimeout, WriteTimeout: metricsTimeout, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	log.Info("metrics API listening on " + l.Addr().String())
	var group errgroup.Group
	group.Go(func() error {
		<-ctx.Done()
		return srv.Close()
	})
	group.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return group.Wait()
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
