// pull measures how long a large image takes from a registry on the loopback
// interface to an unpacked image, with this engine and with Debian's containerd
// and skopeo with umoci. They take turns, each time with empty storage. It prints
// a table for docs/BENCHMARKS.md.
//
// Needs root and Debian's docker-registry; the contenders that are not there are left
// out. test/bench/pull/run makes the layers.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/klauspost/compress/gzip"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func main() {
	ours := flag.String("ours", "bin", "directory of our programs")
	stock := flag.String("stock", "", "directory of Debian's containerd and ctr; \"\" leaves them out")
	layers := flag.String("layers", "", "directory of the layers, *.tgz, in the order of their names")
	n := flag.Int("n", 3, "rounds")
	flag.Parse()
	if err := run(*ours, *stock, *layers, *n); err != nil {
		fmt.Fprintln(os.Stderr, "pull:", err)
		os.Exit(1)
	}
}

// contender pulls ref with all its files below dir, which is empty. It returns
// the time of the pull and the peak of resident memory of what did it, in bytes.
type contender struct {
	name string
	pull func(dir, ref string) (time.Duration, int64, error)
}

func run(ours, stock, layers string, n int) error {
	dir, err := os.MkdirTemp("", "lighter-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	files, err := filepath.Glob(filepath.Join(layers, "*.tgz"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("no layers in %q", layers)
	}
	addr, stop, err := registry(filepath.Join(dir, "registry"))
	if err != nil {
		return err
	}
	defer stop()
	size, plain, err := publish("http://"+addr+"/v2/bench", files)
	if err != nil {
		return err
	}
	ours, err = filepath.Abs(ours)
	if err != nil {
		return err
	}
	list := []contender{
		{"gzip -dc of the layers", func(string, string) (time.Duration, int64, error) { return gunzip(files) }},
		{"ours", func(dir, ref string) (time.Duration, int64, error) { return pullOurs(ours, dir, ref) }},
	}
	if stock != "" {
		list = append(list, contender{"containerd 1.6 (ctr)", func(dir, ref string) (time.Duration, int64, error) { return pullCtr(stock, dir, ref) }})
	}
	if _, err := exec.LookPath("umoci"); err == nil {
		list = append(list, contender{"skopeo, umoci", pullSkopeo})
	}
	times, peaks := map[string][]time.Duration{}, map[string]int64{}
	for range n {
		for _, c := range list {
			syscall.Sync()
			work := filepath.Join(dir, "work")
			if err := os.Mkdir(work, 0o700); err != nil {
				return err
			}
			d, peak, err := c.pull(work, addr+"/bench:1")
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			times[c.name] = append(times[c.name], d)
			peaks[c.name] = max(peaks[c.name], peak)
			if err := os.RemoveAll(work); err != nil {
				return err
			}
		}
	}
	fmt.Printf("%d layers, %d MiB compressed, %d MiB unpacked; %d rounds\n\n", len(files), size>>20, plain>>20, n)
	fmt.Printf("| pull | median | best | peak memory |\n| --- | ---: | ---: | ---: |\n")
	for _, c := range list {
		t := times[c.name]
		slices.Sort(t)
		mem := ""
		if peaks[c.name] > 0 {
			mem = fmt.Sprintf("%d MiB", peaks[c.name]>>20)
		}
		fmt.Printf("| %s | %.2f s | %.2f s | %s |\n", c.name, t[len(t)/2].Seconds(), t[0].Seconds(), mem)
	}
	return nil
}

func registry(dir string) (addr string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	addr = l.Addr().String()
	l.Close() // the registry can't be handed a listener
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, err
	}
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: %s\n", dir, addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return "", nil, err
	}
	cmd := exec.Command("docker-registry", "serve", config)
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	return addr, stop, until(func() error {
		resp, err := http.Get("http://" + addr + "/v2/")
		if err == nil {
			resp.Body.Close()
		}
		return err
	})
}

// until calls ready until it succeeds.
func until(ready func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var err error
	for range 500 {
		if err = ready(); err == nil {
			return nil
		}
		<-tick.C
	}
	return err
}

// publish uploads an image of the layers as tag 1, and returns the sizes of the
// layers, compressed and not.
func publish(base string, files []string) (size, plain int64, err error) {
	cfg := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}}
	cfg.RootFS.Type = "layers"
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return 0, 0, err
		}
		zr, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return 0, 0, err
		}
		h := sha256.New()
		n, err := io.Copy(h, zr)
		if err != nil {
			return 0, 0, err
		}
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(h.Sum(nil))))
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(b), Size: int64(len(b))}
		m.Layers = append(m.Layers, d)
		size, plain = size+d.Size, plain+n
		if err := upload(base, d.Digest, b); err != nil {
			return 0, 0, err
		}
	}
	b, err := json.Marshal(cfg)
	if err != nil {
		return 0, 0, err
	}
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if err := upload(base, m.Config.Digest, b); err != nil {
		return 0, 0, err
	}
	if b, err = json.Marshal(m); err != nil {
		return 0, 0, err
	}
	return size, plain, send(http.MethodPut, base+"/manifests/1", m.MediaType, b, nil)
}

func upload(base string, d digest.Digest, b []byte) error {
	var at string
	if err := send(http.MethodPost, base+"/blobs/uploads/", "", nil, &at); err != nil {
		return err
	}
	sep := "?"
	if strings.Contains(at, "?") {
		sep = "&"
	}
	return send(http.MethodPut, at+sep+"digest="+d.String(), "application/octet-stream", b, nil)
}

func send(method, url, mediaType string, body []byte, location *string) error {
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s", method, url, resp.Status)
	}
	if location != nil {
		*location = resp.Header.Get("Location")
	}
	return nil
}

// gunzip decompresses the layers, one gzip per processor at a time: what no pull
// that uses gzip can undercut.
func gunzip(files []string) (time.Duration, int64, error) {
	began := time.Now()
	var wg sync.WaitGroup
	slots := make(chan struct{}, runtime.NumCPU())
	errs := make(chan error, len(files))
	for _, f := range files {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs <- exec.Command("gzip", "-dc", f).Run()
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return 0, 0, err
		}
	}
	return time.Since(began), 0, nil
}

// peak returns the most memory that the process has had resident, in bytes.
func peak(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kib, _ := strconv.ParseInt(fields[0], 10, 64)
	return kib << 10
}

func pullOurs(bin, dir, ref string) (time.Duration, int64, error) {
	host := "unix://" + filepath.Join(dir, "s.sock")
	daemon := exec.Command(filepath.Join(bin, "dockerd"), "--config-file", "/dev/null", "--data-root", filepath.Join(dir, "data"),
		"--exec-root", filepath.Join(dir, "exec"), "-p", filepath.Join(dir, "pid"), "-H", host)
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	daemon.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	return timed(daemon, filepath.Join(dir, "log"), exec.Command(filepath.Join(bin, "docker"), "-H", host, "version"),
		exec.Command(filepath.Join(bin, "docker"), "-H", host, "pull", "-q", ref))
}

func pullCtr(bin, dir, ref string) (time.Duration, int64, error) {
	sock := filepath.Join(dir, "c.sock")
	config := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n", sock, sock+".ttrpc")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return 0, 0, err
	}
	daemon := exec.Command(filepath.Join(bin, "containerd"), "-c", config, "--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state"))
	return timed(daemon, filepath.Join(dir, "log"), exec.Command(filepath.Join(bin, "ctr"), "-a", sock, "version"),
		exec.Command(filepath.Join(bin, "ctr"), "-a", sock, "images", "pull", "--plain-http", ref))
}

// timed runs the daemon until ready succeeds, then measures pull.
func timed(daemon *exec.Cmd, logPath string, ready, pull *exec.Cmd) (time.Duration, int64, error) {
	logFile, err := os.Create(logPath)
	if err != nil {
		return 0, 0, err
	}
	defer logFile.Close()
	daemon.Stdout, daemon.Stderr = logFile, logFile
	if err := daemon.Start(); err != nil {
		return 0, 0, err
	}
	defer func() {
		daemon.Process.Signal(syscall.SIGTERM)
		daemon.Wait()
	}()
	err = until(func() error { return exec.Command(ready.Path, ready.Args[1:]...).Run() })
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	out, err := pull.CombinedOutput()
	took := time.Since(began)
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %s", err, out)
	}
	return took, peak(daemon.Process.Pid), nil
}

func pullSkopeo(dir, ref string) (time.Duration, int64, error) {
	began := time.Now()
	layout := filepath.Join(dir, "layout")
	for _, args := range [][]string{
		{"skopeo", "copy", "-q", "--src-tls-verify=false", "docker://" + ref, "oci:" + layout + ":1"},
		{"umoci", "unpack", "--image", layout + ":1", filepath.Join(dir, "bundle")},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return 0, 0, fmt.Errorf("%s: %w: %s", args[0], err, out)
		}
	}
	return time.Since(began), 0, nil
}
