package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"

	"lighter/containerd"
	"lighter/internal/version"
)

// headerTimeout bounds how long a client of the HTTP sockets may take to ask.
const headerTimeout = 10 * time.Second

// debugHandler serves the profiles of this process, as ctr pprof and go tool
// pprof read them.
func debugHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// serveHTTP serves until the listener is closed.
func serveHTTP(l net.Listener, h http.Handler, log *slog.Logger) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	err := s.Serve(l)
	s.Close() // profiles under way
	return err
}

// metricsHandler serves /v1/metrics in Prometheus's text format: the process, and
// the control groups of all tasks by their container and namespace.
func metricsHandler(svc *containerd.Services, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/metrics", func(w http.ResponseWriter, r *http.Request) {
		var m exposition
		m.process()
		if err := m.tasks(r.Context(), svc); err != nil {
			log.Error("can't collect metrics", "err", err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		m.write(w)
	})
	return mux
}

// exposition is a set of metrics in the order in which they were first added.
type exposition struct {
	names   []string
	kinds   map[string]string   // by name: counter or gauge
	samples map[string][]string // by name
}

// add adds a sample; labels are pairs of name and value.
func (e *exposition) add(kind, name string, value float64, labels ...string) {
	if e.kinds == nil {
		e.kinds, e.samples = make(map[string]string), make(map[string][]string)
	}
	if e.kinds[name] == "" {
		e.names = append(e.names, name)
		e.kinds[name] = kind
	}
	var b strings.Builder
	b.WriteString(name)
	for i := 0; i < len(labels); i += 2 {
		b.WriteString(map[bool]string{true: "{", false: ","}[i == 0])
		fmt.Fprintf(&b, "%s=\"%s\"", labels[i], escapeLabel.Replace(labels[i+1]))
	}
	if len(labels) > 0 {
		b.WriteByte('}')
	}
	e.samples[name] = append(e.samples[name], b.String()+" "+strconv.FormatFloat(value, 'g', -1, 64))
}

var escapeLabel = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (e *exposition) write(w io.Writer) {
	b := bufio.NewWriter(w)
	defer b.Flush()
	for _, name := range e.names {
		fmt.Fprintf(b, "# TYPE %s %s\n", name, e.kinds[name])
		for _, s := range e.samples[name] {
			fmt.Fprintln(b, s)
		}
	}
}

func (e *exposition) process() {
	e.add("counter", "containerd_build_info_total", 1, "revision", version.GitCommit, "version", version.Version)
	e.add("gauge", "go_goroutines", float64(runtime.NumGoroutine()))
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(heap)
	e.add("gauge", "go_memstats_alloc_bytes", float64(heap[0].Value.Uint64()))
	if raw, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(raw)); len(f) > 1 {
			if pages, err := strconv.ParseUint(f[1], 10, 64); err == nil {
				e.add("gauge", "process_resident_memory_bytes", float64(pages)*float64(os.Getpagesize()))
			}
		}
	}
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		e.add("gauge", "process_open_fds", float64(len(fds)))
	}
}

// tasks adds the tasks of every namespace. One that has ended meanwhile, or does
// not answer, is left out.
func (e *exposition) tasks(ctx context.Context, svc *containerd.Services) error {
	spaces, err := svc.Namespaces.List(ctx)
	if err != nil {
		return err
	}
	for _, space := range spaces {
		ctx := namespaces.WithNamespace(ctx, space)
		list, err := svc.Tasks.List(ctx)
		if err != nil {
			return err
		}
		for _, t := range list {
			if t.Status == containerd.StatusStopped {
				continue
			}
			data, err := svc.Tasks.Metrics(ctx, t.ID)
			if err != nil {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				continue
			}
			if err := e.task(data, "container_id", t.ID, "namespace", space); err != nil {
				return fmt.Errorf("metrics of task %q: %w", t.ID, err)
			}
		}
	}
	return nil
}

// task adds the statistics of one control group under the names of a stock
// containerd, which differ by the version of the groups.
func (e *exposition) task(data typeurl.Any, labels ...string) error {
	switch data.GetTypeUrl() {
	case "io.containerd.cgroups.v1.Metrics":
		var m cgroup1.Metrics
		if err := typeurl.UnmarshalTo(data, &m); err != nil {
			return err
		}
		e.add("gauge", "container_cpu_total_nanoseconds", float64(m.GetCPU().GetUsage().GetTotal()), labels...)
		e.add("gauge", "container_cpu_user_nanoseconds", float64(m.GetCPU().GetUsage().GetUser()), labels...)
		e.add("gauge", "container_cpu_kernel_nanoseconds", float64(m.GetCPU().GetUsage().GetKernel()), labels...)
		e.add("gauge", "container_memory_usage_usage_bytes", float64(m.GetMemory().GetUsage().GetUsage()), labels...)
		e.add("gauge", "container_memory_usage_limit_bytes", float64(m.GetMemory().GetUsage().GetLimit()), labels...)
		e.add("gauge", "container_pids_current", float64(m.GetPids().GetCurrent()), labels...)
		e.add("gauge", "container_pids_limit", float64(m.GetPids().GetLimit()), labels...)
	default:
		var m cgroup2.Metrics
		if err := typeurl.UnmarshalTo(data, &m); err != nil {
			return err
		}
		e.add("gauge", "container_cpu_usage_usec_microseconds", float64(m.GetCPU().GetUsageUsec()), labels...)
		e.add("gauge", "container_cpu_user_usec_microseconds", float64(m.GetCPU().GetUserUsec()), labels...)
		e.add("gauge", "container_cpu_system_usec_microseconds", float64(m.GetCPU().GetSystemUsec()), labels...)
		e.add("gauge", "container_memory_usage_bytes", float64(m.GetMemory().GetUsage()), labels...)
		e.add("gauge", "container_memory_usage_limit_bytes", float64(m.GetMemory().GetUsageLimit()), labels...)
		e.add("gauge", "container_pids_current", float64(m.GetPids().GetCurrent()), labels...)
		e.add("gauge", "container_pids_limit", float64(m.GetPids().GetLimit()), labels...)
	}
	return nil
}
