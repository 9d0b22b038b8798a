package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/atomicfile"
	"lighter/shim/wire"
)

// taskVersion is the newest Task API that the server speaks.
const taskVersion = 3

// maxParams bounds what is read from stdin, in bytes.
const maxParams = 10 << 20

// reply says how the caller wants to be told the address.
type reply int

const (
	replyPlain     reply = iota // the address alone: containerd before 1.7
	replyJSON                   // containerd 1.7 to 2.2
	replyBootstrap              // protobuf: containerd 2.3
)

// start makes a socket, starts a server for it and prints the address.
func start(cfg config, stdin io.Reader, stdout io.Writer) error {
	params, how, err := readParams(cfg, stdin)
	if err != nil {
		return err
	}
	if params.ttrpcAddress != "" {
		cfg.ttrpcAddress = params.ttrpcAddress
	}
	if params.grpcAddress != "" {
		cfg.grpcAddress = params.grpcAddress
	}
	if params.logLevel <= logLevelDebug {
		cfg.debug = true
	}
	path, err := socketPath(cfg, params.socketDir)
	if err != nil {
		return err
	}
	l, err := listen(path)
	if err != nil {
		return err
	}
	if l != nil { // else a server is there
		defer l.Close()
		if err := saveAddress(path); err != nil {
			os.Remove(path)
			return err
		}
		if err := spawn(cfg, l); err != nil {
			os.Remove(path)
			return err
		}
	}
	return printAddress(stdout, how, "unix://"+path)
}

// bootstrapParams are the fields of containerd.runtime.bootstrap.v1's
// BootstrapParams that matter here.
type bootstrapParams struct {
	id, namespace             string
	logLevel                  int32
	ttrpcAddress, grpcAddress string
	socketDir                 string
}

// logLevelDebug is a log level of BootstrapParams; lower is more verbose.
const logLevelDebug = -4

func (p *bootstrapParams) decode(b []byte) error {
	d := wire.NewDecoder(b)
	for d.Next() {
		switch d.Field() {
		case 1:
			p.id = d.Text()
		case 2:
			p.namespace = d.Text()
		case 3:
			p.logLevel = int32(d.Int())
		case 5:
			p.ttrpcAddress = d.Text()
		case 6:
			p.grpcAddress = d.Text()
		case 9:
			p.socketDir = d.Text()
		}
	}
	return d.Err()
}

// readParams reads what containerd has to say. Older ones write nothing, or
// runtime options, which may well decode as parameters: only those that name
// the container are.
func readParams(cfg config, stdin io.Reader) (bootstrapParams, reply, error) {
	how := replyPlain
	if os.Getenv("MAX_SHIM_VERSION") != "" {
		how = replyJSON
	}
	b, err := io.ReadAll(io.LimitReader(stdin, maxParams))
	if err != nil {
		return bootstrapParams{}, how, fmt.Errorf("read bootstrap parameters: %w", err)
	}
	var params bootstrapParams
	if err := params.decode(b); err != nil || params.id != cfg.id || params.namespace != cfg.namespace {
		return bootstrapParams{}, how, nil
	}
	return params, replyBootstrap, nil
}

func printAddress(w io.Writer, how reply, address string) error {
	var out []byte
	var err error
	switch how {
	case replyBootstrap:
		var e wire.Encoder // BootstrapResult
		e.Int(1, taskVersion)
		e.Text(2, address)
		e.Text(3, "ttrpc")
		out = e.Bytes()
	case replyJSON:
		v := taskVersion
		// A containerd that knows less than version 3 says so and refuses more.
		if limit, lerr := strconv.Atoi(os.Getenv("MAX_SHIM_VERSION")); lerr == nil {
			v = min(v, max(limit, 2))
		}
		out, err = json.Marshal(struct {
			Version  int    `json:"version"`
			Address  string `json:"address"`
			Protocol string `json:"protocol"`
		}{v, address, "ttrpc"})
	default:
		out = []byte(address)
	}
	if err == nil {
		_, err = w.Write(out)
	}
	if err != nil {
		return fmt.Errorf("print address: %w", err)
	}
	return nil
}

// socketPath returns the name of the server's socket. It is short, since a
// socket's name holds 107 bytes, and private, since its directory is.
func socketPath(cfg config, dir string) (string, error) {
	if dir == "" {
		dir = "/run/containerd/s"
		if os.Geteuid() != 0 {
			run := os.Getenv("XDG_RUNTIME_DIR")
			if run == "" {
				return "", fmt.Errorf("find a directory for the socket: XDG_RUNTIME_DIR is not set")
			}
			dir = filepath.Join(run, "containerd", "s")
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make socket directory: %w", err)
	}
	return filepath.Join(dir, socketName(cfg)), nil
}

func socketName(cfg config) string {
	sum := sha256.Sum256([]byte(cfg.grpcAddress + "\x00" + cfg.namespace + "\x00" + cfg.id))
	return hex.EncodeToString(sum[:])
}

// listen makes the socket at path. A dead shim's is replaced; if a live one
// serves it the listener is nil.
func listen(path string) (*net.UnixListener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, nil
	} else if errors.Is(err, unix.ECONNREFUSED) {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("replace socket: %w", err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("make socket: %w", err), l.Close(), os.Remove(path))
	}
	return l, nil
}

// addressFile, in the bundle, names the socket to the clean-up after a dead shim.
const addressFile = "address"

func saveAddress(path string) error {
	return atomicfile.WriteVolatile(addressFile, []byte("unix://"+path), 0o600)
}

// removeSocket removes the socket of the dead shim of bundle. A file that start
// cannot have named is left alone.
func removeSocket(cfg config, bundle string) error {
	b, err := os.ReadFile(filepath.Join(bundle, addressFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	path := strings.TrimPrefix(string(b), "unix://")
	if err == nil && filepath.Base(path) == socketName(cfg) {
		if err = os.Remove(path); errors.Is(err, os.ErrNotExist) {
			err = nil
		}
	}
	return err
}

// closeOnExec keeps descriptors that came from who knows where, through the
// caller, from a server that would hold them as long as its container runs.
func closeOnExec() error {
	return os.NewSyscallError("close_range", unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC))
}

// spawn starts the server, in a session of its own.
func spawn(cfg config, l *net.UnixListener) error {
	socket, err := l.File()
	if err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	defer socket.Close()
	args := []string{"-namespace", cfg.namespace, "-id", cfg.id, "-address", cfg.grpcAddress}
	if cfg.debug {
		args = append(args, "-debug")
	}
	cmd := exec.Command("/proc/self/exe", append(args, "serve")...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), "TTRPC_ADDRESS="+cfg.ttrpcAddress)
	cmd.ExtraFiles = []*os.File{socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := closeOnExec(); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	// containerd reads this fifo; without a reader there is no log.
	if f, err := os.OpenFile("log", os.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0); err == nil {
		defer f.Close()
		cmd.Stderr = f
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	return cmd.Process.Release()
}
