// bench measures this engine against the stock one of Debian's docker.io, in
// one run on one machine: the two take turns, so that a slow moment of the
// machine meets both. It prints the table of docs/BENCHMARKS.md.
//
// Needs root, the programs in bin/, and the stock ones unpacked in the directory
// -stock names (see test/bench/run).
package main

import (
	"bytes"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// engine is a running daemon.
type engine struct {
	name    string
	host    string
	path    string // for PATH
	dir     string
	command *exec.Cmd
}

func main() {
	ours := flag.String("ours", "bin", "directory of our programs")
	stock := flag.String("stock", "", "directory of the stock programs")
	cli := flag.String("cli", "", "command line that drives both engines, for a fair comparison; \"\" means each its own")
	n := flag.Int("n", 20, "measurements of each figure")
	rootfs := flag.String("rootfs", "", "tar of a busybox root file system")
	flag.Parse()
	if err := run(*ours, *stock, *cli, *rootfs, *n); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(oursDir, stockDir, cli, rootfs string, n int) error {
	dir, err := os.MkdirTemp("", "lighter-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var engines []*engine
	for _, e := range []struct{ name, path string }{{"stock", stockDir}, {"ours", oursDir}} {
		path, err := filepath.Abs(e.path)
		if err != nil {
			return err
		}
		eng, err := start(e.name, path, filepath.Join(dir, e.name))
		if err != nil {
			return err
		}
		defer eng.stop()
		engines = append(engines, eng)
		if err := eng.docker(cli, "import", rootfs, "busybox:latest"); err != nil {
			return err
		}
	}
	fmt.Printf("| figure | stock | ours | ours / stock |\n| --- | ---: | ---: | ---: |\n")
	row := func(name, unit string, stock, ours float64) {
		fmt.Printf("| %s | %.1f %s | %.1f %s | %.3f |\n", name, stock, unit, ours, unit, ours/stock)
	}
	idle := make([]float64, 2)
	for i, e := range engines {
		idle[i] = e.memory()
	}
	row("daemons, idle, PSS", "MiB", idle[0], idle[1])

	figures := []struct {
		name string
		args []string
	}{
		{"docker version", []string{"version"}},
		{"docker run --rm busybox true, bridge", []string{"run", "--rm", "busybox", "true"}},
		{"docker run --rm --network none busybox true", []string{"run", "--rm", "--network", "none", "busybox", "true"}},
		{"docker run --rm -p 28099:80 busybox true", []string{"run", "--rm", "-p", "28099:80", "busybox", "true"}},
		{"docker exec CONTAINER true", []string{"exec", "sleeper", "true"}},
	}
	for _, e := range engines {
		if err := e.docker(cli, "run", "-d", "--name", "sleeper", "busybox", "sleep", "100000"); err != nil {
			return err
		}
	}
	for _, f := range figures {
		times := make([][]float64, 2)
		for i := range n + 2 { // two to warm up
			for j, e := range engines {
				began := time.Now()
				if err := e.docker(cli, f.args...); err != nil {
					return err
				}
				if i >= 2 {
					times[j] = append(times[j], float64(time.Since(began).Microseconds())/1000)
				}
			}
		}
		row(f.name+", median", "ms", median(times[0]), median(times[1]))
	}
	const containers = 20
	per := make([]float64, 2)
	for i, e := range engines {
		before := e.memory()
		for k := range containers {
			if err := e.docker(cli, "run", "-d", "--name", "idle"+strconv.Itoa(k), "busybox", "sleep", "100000"); err != nil {
				return err
			}
		}
		<-time.After(5 * time.Second) // shims give memory back when they are idle
		per[i] = (e.memory() - before) / containers
	}
	row(fmt.Sprintf("memory per idle container (of %d), PSS", containers), "MiB", per[0], per[1])
	return nil
}

func median(xs []float64) float64 {
	slices.Sort(xs)
	return xs[len(xs)/2]
}

// start runs dockerd in the current network namespace on a bridge of its own
// making. The two engines would fight over docker0, so each is in a network
// namespace of its own.
func start(name, path, dir string) (*engine, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	e := &engine{name: name, path: path, dir: dir, host: "unix://" + dir + "/docker.sock"}
	log, err := os.Create(dir + "/log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if err := os.WriteFile(dir+"/daemon.json", []byte("{}"), 0o600); err != nil {
		return nil, err
	}
	e.command = exec.Command(path+"/dockerd", "--config-file", dir+"/daemon.json", "--data-root", dir+"/data",
		"--exec-root", dir+"/exec", "--pidfile", dir+"/pid", "-H", e.host)
	e.command.Env = e.env()
	e.command.Stdout, e.command.Stderr = log, log
	e.command.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET}
	if err := e.command.Start(); err != nil {
		return nil, err
	}
	for range 600 {
		if c, err := net.Dial("unix", dir+"/docker.sock"); err == nil {
			c.Close()
			if e.docker("", "version") == nil {
				return e, nil
			}
		}
		<-time.After(50 * time.Millisecond)
	}
	raw, _ := os.ReadFile(dir + "/log")
	e.stop()
	return nil, fmt.Errorf("%s did not start:\n%s", name, raw)
}

func (e *engine) env() []string {
	return append(os.Environ(), "PATH="+e.path+":"+os.Getenv("PATH"), "DOCKER_HOST="+e.host, "DOCKER_CONFIG="+e.dir+"/cli")
}

func (e *engine) docker(cli string, args ...string) error {
	if cli == "" {
		cli = e.path + "/docker"
	}
	cmd := exec.Command(cli, args...)
	cmd.Env = e.env()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: docker %q: %w\n%s", e.name, args, err, &out)
	}
	return nil
}

func (e *engine) stop() {
	cmd := exec.Command("sh", "-c", `"$0" ps -aq | xargs -r "$0" rm -f >/dev/null 2>&1`, e.path+"/docker")
	cmd.Env = e.env()
	cmd.Run()
	e.command.Process.Signal(syscall.SIGTERM)
	e.command.Wait()
}

// memory adds up the proportional set size, in MiB, of the engine's processes:
// the daemon, and the descendants that are not a container's.
func (e *engine) memory() float64 {
	programs := []string{"dockerd", "containerd", "containerd-shim", "docker-proxy"}
	total := 0.0
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		comm, err := os.ReadFile(dir + "/comm")
		if err != nil || !slices.ContainsFunc(programs, func(p string) bool { return strings.HasPrefix(string(comm), p) }) {
			continue
		}
		line, _ := os.ReadFile(dir + "/cmdline")
		env, _ := os.ReadFile(dir + "/environ")
		if !bytes.Contains(line, []byte(e.dir)) && !bytes.Contains(env, []byte(e.dir)) {
			continue
		}
		raw, err := os.ReadFile(dir + "/smaps_rollup")
		if err != nil {
			continue
		}
		for l := range strings.Lines(string(raw)) {
			if rest, ok := strings.CutPrefix(l, "Pss:"); ok {
				kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
				total += kib / 1024
			}
		}
	}
	return total
}
