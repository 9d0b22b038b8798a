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

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"lighter/internal/atomicfile"
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
	if params.ContainerdTtrpcAddress != "" {
		cfg.ttrpcAddress = params.ContainerdTtrpcAddress
	}
	if params.ContainerdGrpcAddress != "" {
		cfg.grpcAddress = params.ContainerdGrpcAddress
	}
	if params.LogLevel <= bootapi.LogLevel_LOG_LEVEL_DEBUG {
		cfg.debug = true
	}
	path, err := socketPath(cfg, params.GetSocketDir())
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

// readParams reads what containerd has to say. Older ones write nothing, or
// runtime options, which may well decode as parameters: only those that name
// the container are.
func readParams(cfg config, stdin io.Reader) (*bootapi.BootstrapParams, reply, error) {
	how := replyPlain
	if os.Getenv("MAX_SHIM_VERSION") != "" {
		how = replyJSON
	}
	b, err := io.ReadAll(io.LimitReader(stdin, maxParams))
	if err != nil {
		return nil, how, fmt.Errorf("read bootstrap parameters: %w", err)
	}
	params := &bootapi.BootstrapParams{}
	err = proto.Unmarshal(b, params)
	if len(b) == 0 || err != nil || params.InstanceID != cfg.id || params.Namespace != cfg.namespace {
		return &bootapi.BootstrapParams{}, how, nil
	}
	return params, replyBootstrap, nil
}

func printAddress(w io.Writer, how reply, address string) error {
	var out []byte
	var err error
	switch how {
	case replyBootstrap:
		out, err = proto.Marshal(&bootapi.BootstrapResult{Version: taskVersion, Address: address, Protocol: "ttrpc"})
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
