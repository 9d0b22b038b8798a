package shim

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/atomicfile"
	"lighter/shim/reaper"
)

// Files in the bundle that tell the clean-up after a dead shim what it needs to
// know. The bundle is on tmpfs; they are not synced.
const (
	optionsFile = "options.json"
	pidFile     = "init.pid"
	exitFile    = "exit-status.json"
)

// exitRecord is the content of exitFile.
type exitRecord struct {
	Pid    int       `json:"pid"`
	Status int       `json:"status"`
	At     time.Time `json:"at"`
}

func saveOptions(bundle string, o Options) error {
	b, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("save options: %w", err)
	}
	return atomicfile.WriteVolatile(filepath.Join(bundle, optionsFile), b, 0o600)
}

func savePid(bundle string, pid int) error {
	return atomicfile.WriteVolatile(filepath.Join(bundle, pidFile), []byte(strconv.Itoa(pid)), 0o600)
}

func saveExit(bundle string, e reaper.Exit) error {
	b, err := json.Marshal(exitRecord{Pid: e.Pid, Status: e.Status, At: e.At})
	if err != nil {
		return fmt.Errorf("save exit: %w", err)
	}
	return atomicfile.WriteVolatile(filepath.Join(bundle, exitFile), b, 0o600)
}

// LoadOptions returns the options that the container in bundle was created
// with; the zero value if it never was.
func LoadOptions(bundle string) (Options, error) {
	var o Options
	b, err := os.ReadFile(filepath.Join(bundle, optionsFile))
	if os.IsNotExist(err) {
		return o, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	if err != nil {
		return o, fmt.Errorf("load options: %w", err)
	}
	return o, nil
}

// LoadExit returns how the init process of a dead shim's container ended. If the
// shim did not live to know, the process is taken as killed now, which the
// caller has then made true.
func LoadExit(bundle string) reaper.Exit {
	var rec exitRecord
	if b, err := os.ReadFile(filepath.Join(bundle, exitFile)); err == nil && json.Unmarshal(b, &rec) == nil {
		return reaper.Exit{Pid: rec.Pid, Status: rec.Status, At: rec.At}
	}
	e := reaper.Exit{Status: 128 + int(unix.SIGKILL), At: time.Now()}
	if b, err := os.ReadFile(filepath.Join(bundle, pidFile)); err == nil {
		e.Pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	return e
}

// cgroupRoot is where cgroup file systems are mounted.
const cgroupRoot = "/sys/fs/cgroup"

// enterCgroup moves the calling process into an existing cgroup: on v1 in every
// hierarchy that has it.
func enterCgroup(path string) error {
	dirs := []string{filepath.Join(cgroupRoot, path)}
	if _, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers")); err != nil {
		if dirs, err = filepath.Glob(filepath.Join(cgroupRoot, "*", path)); err != nil {
			return fmt.Errorf("enter cgroup %q: %w", path, err)
		}
	}
	entered := false
	for _, dir := range dirs {
		err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
		if err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("enter cgroup %q: %w", path, err)
		}
		entered = entered || err == nil
	}
	if !entered {
		return fmt.Errorf("enter cgroup %q: %w", path, os.ErrNotExist)
	}
	return nil
}
