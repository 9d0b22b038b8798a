package metrics

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ticksPerSecond is the unit of times in /proc, the same on all architectures.
const ticksPerSecond = 100

// Process adds what Prometheus's client for Go shows of every program: times,
// memory and descriptors of the process, goroutines and heap of the runtime.
func (s *Set) Process() {
	s.Counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", cpuSeconds)
	s.Gauge("process_max_fds", "Maximum number of open file descriptors.", maxDescriptors)
	s.Gauge("process_open_fds", "Number of open file descriptors.", openDescriptors)
	s.Gauge("process_resident_memory_bytes", "Resident memory size in bytes.", func() float64 {
		return statm(1) * float64(os.Getpagesize())
	})
	started := processStart()
	s.Gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", func() float64 { return started })
	s.Gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", func() float64 {
		return statm(0) * float64(os.Getpagesize())
	})
	s.Gauge("go_goroutines", "Number of goroutines that currently exist.", func() float64 { return float64(runtime.NumGoroutine()) })
	s.Gauges("go_info", "Information about the Go environment.", func() []Sample {
		return []Sample{{Labels("version", runtime.Version()), 1}}
	})
	s.Gauge("go_memstats_alloc_bytes", "Number of bytes allocated in heap and currently in use.", func() float64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.Alloc)
	})
}

func cpuSeconds() float64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return (time.Duration(u.Utime.Nano()) + time.Duration(u.Stime.Nano())).Seconds()
}

func maxDescriptors() float64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return float64(limit.Cur)
}

func openDescriptors() float64 {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return float64(len(entries) - 1) // less the one that reads
}

// statm returns a field of proc_pid_statm(5), in pages.
func statm(field int) float64 {
	raw, err := os.ReadFile("/proc/self/statm")
	fields := bytes.Fields(raw)
	if err != nil || field >= len(fields) {
		return 0
	}
	n, _ := strconv.ParseFloat(string(fields[field]), 64)
	return n
}

// processStart is when the process was started, in seconds of Unix time.
func processStart() float64 {
	raw, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0
	}
	const starttime = 22 - 3 // fields are counted from 1, the name ends the second
	fields := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:])
	if len(fields) <= starttime {
		return 0
	}
	ticks, _ := strconv.ParseFloat(string(fields[starttime]), 64)
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return 0
	}
	return float64(time.Now().UnixNano()-boot.Nano())/1e9 + ticks/ticksPerSecond
}
