// runtime measures OCI runtimes side by side: each runs /bin/true of the same
// bundle, in turns, beside a C program (testdata/floor.c) that makes the same namespaces and
// mounts and nothing else, and an empty Go program beside `runc --version`.
//
// Needs root, a C compiler and a static busybox. Runtimes that are not there are
// left out. crun of Debian refuses hybrid control groups: every program runs in a
// mount namespace of its own without the unified hierarchy.
package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

//go:embed testdata/floor.c
var floor []byte

// contender is one command line to measure.
type contender struct {
	name  string
	args  func(i int) []string
	times []time.Duration
	peak  int64 // KiB, of the largest run
}

func main() {
	list := flag.String("runtimes", "runc=bin/runc", "NAME=PATH of each runtime, separated by commas")
	n := flag.Int("n", 100, "runs of each")
	flag.Parse()
	if os.Getenv("LIGHTER_BENCH_PRIVATE") == "" {
		os.Exit(private())
	}
	if err := run(*list, *n); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// private executes this program again in a mount namespace of its own.
func private() int {
	self, err := os.Executable()
	if err == nil {
		cmd := exec.Command(self, os.Args[1:]...)
		cmd.Env = append(os.Environ(), "LIGHTER_BENCH_PRIVATE=1")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		err = cmd.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

func run(list string, n int) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	_ = syscall.Unmount("/sys/fs/cgroup/unified", syscall.MNT_DETACH) // a pure hierarchy has none
	dir, err := os.MkdirTemp("", "lighter-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	rootfs, err := bundle(dir)
	if err != nil {
		return err
	}
	source, program := filepath.Join(dir, "floor.c"), filepath.Join(dir, "floor")
	if err := os.WriteFile(source, floor, 0o644); err != nil {
		return err
	}
	if out, err := exec.Command("cc", "-O2", "-static", "-w", "-o", program, source).CombinedOutput(); err != nil {
		return fmt.Errorf("compile floor.c: %w: %s", err, out)
	}
	empty, err := emptyProgram(dir)
	if err != nil {
		return err
	}
	runs := []*contender{{name: "floor (C)", args: func(int) []string { return []string{program, rootfs, "/bin/true"} }}}
	starts := []*contender{{name: "empty Go program", args: func(int) []string { return []string{empty} }}}
	for _, r := range strings.Split(list, ",") {
		name, path, _ := strings.Cut(r, "=")
		path, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		if _, err := os.Stat(path); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s is left out: %v\n", name, err)
			continue
		}
		runs = append(runs, &contender{name: name + " run true", args: func(i int) []string {
			return []string{path, "--root", filepath.Join(dir, "state-"+name), "run", "--bundle", dir, fmt.Sprintf("lighter-bench-%d-%s-%d", os.Getpid(), name, i)}
		}})
		starts = append(starts, &contender{name: name + " --version", args: func(int) []string { return []string{path, "--version"} }})
	}
	fmt.Println("| command | median | best | times the first | peak memory |\n| --- | ---: | ---: | ---: | ---: |")
	for _, group := range [][]*contender{runs, starts} {
		if err := measure(group, n); err != nil {
			return err
		}
		for _, c := range group {
			m := c.times[len(c.times)/2]
			fmt.Printf("| %s | %.2f ms | %.2f ms | %.2f | %.1f MiB |\n", c.name, ms(m), ms(c.times[0]), ms(m)/ms(group[0].times[n/2]), float64(c.peak)/1024)
		}
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// measure runs the group in turns, so that a slow moment of the machine meets all.
func measure(group []*contender, n int) error {
	for i := range n + 3 { // the first ones warm caches
		for _, c := range group {
			args := c.args(i)
			var out bytes.Buffer
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Stdout, cmd.Stderr = &out, &out
			begin := time.Now()
			if err := cmd.Run(); err != nil {
				return fmt.Errorf("%s: %w: %s", c.name, err, out.String())
			}
			if i >= 3 {
				c.times = append(c.times, time.Since(begin))
			}
			if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
				c.peak = max(c.peak, u.Maxrss)
			}
		}
	}
	for _, c := range group {
		slices.Sort(c.times)
	}
	return nil
}

// bundle makes a bundle with a busybox root in dir.
func bundle(dir string) (rootfs string, err error) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return "", fmt.Errorf("static busybox: %w", err)
	}
	rootfs = filepath.Join(dir, "rootfs")
	for _, d := range []string{"bin", "proc", "dev", "sys", "etc"} {
		if err := os.MkdirAll(filepath.Join(rootfs, d), 0o755); err != nil {
			return "", err
		}
	}
	if err := os.WriteFile(filepath.Join(rootfs, "bin/true"), busybox, 0o755); err != nil {
		return "", err
	}
	no := []string{"nosuid", "noexec", "nodev"}
	mount := func(dest, kind string, options ...string) map[string]any {
		return map[string]any{"destination": dest, "type": kind, "source": kind, "options": options}
	}
	var spaces []map[string]string
	for _, t := range []string{"pid", "network", "ipc", "uts", "mount", "cgroup"} {
		spaces = append(spaces, map[string]string{"type": t})
	}
	raw, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.2",
		"process":    map[string]any{"args": []string{"/bin/true"}, "cwd": "/", "env": []string{"PATH=/bin"}, "user": map[string]int{"uid": 0, "gid": 0}},
		"root":       map[string]any{"path": "rootfs"}, "hostname": "floor",
		"mounts": []any{
			mount("/proc", "proc"), mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
			mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
			mount("/dev/shm", "tmpfs", append([]string{"mode=1777", "size=65536k"}, no...)...), mount("/dev/mqueue", "mqueue", no...),
			mount("/sys", "sysfs", append([]string{"ro"}, no...)...),
		},
		"linux": map[string]any{"namespaces": spaces},
	})
	if err != nil {
		return "", err
	}
	return rootfs, os.WriteFile(filepath.Join(dir, "config.json"), raw, 0o644)
}

func emptyProgram(dir string) (string, error) {
	source, program := filepath.Join(dir, "empty.go"), filepath.Join(dir, "empty")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", program, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build empty program: %w: %s", err, out)
	}
	return program, nil
}
