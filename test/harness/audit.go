package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// audit is what a daemon could leave behind, by kind and name.
type audit map[string]map[string]bool

// auditTimeout bounds how long after the last removal traces may remain.
const auditTimeout = 10 * time.Second

// takeAudit looks for what the daemon with that directory may have made. Other
// daemons may be at work on the machine.
func takeAudit(t testing.TB, dir string) audit {
	t.Helper()
	a := audit{}
	ours, others := processes(dir)
	add := func(kind, name string) {
		if a[kind] == nil {
			a[kind] = map[string]bool{}
		}
		a[kind][name] = true
	}
	if raw, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		for line := range strings.Lines(string(raw)) {
			if f := strings.Fields(line); len(f) > 4 {
				add("mount", f[4])
			}
		}
	}
	if links, err := netlink.LinkList(); err == nil {
		for _, l := range links {
			add("link", l.Attrs().Name)
		}
	}
	if conn, err := nftables.New(); err == nil {
		if tables, err := conn.ListTables(); err == nil {
			for _, table := range tables {
				add("nftables table", fmt.Sprintf("%d %s", table.Family, table.Name))
			}
		}
	}
	for _, parent := range []string{"/sys/fs/cgroup/docker", "/sys/fs/cgroup/*/docker"} {
		dirs, _ := filepath.Glob(parent)
		for _, dir := range dirs {
			// A parent group may remain, a container's may not.
			entries, _ := os.ReadDir(dir)
			for _, e := range entries {
				if e.IsDir() && !others[e.Name()] {
					add("cgroup", filepath.Join(dir, e.Name()))
				}
			}
		}
	}
	sum := sha256.Sum256([]byte(dir + "/data"))
	for _, root := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		dirs, _ := filepath.Glob(root + "docker-build-" + hex.EncodeToString(sum[:6]))
		for _, dir := range dirs {
			add("cgroup", dir)
		}
	}
	for _, p := range ours {
		add("process", p)
	}
	return a
}

// processes lists the processes of the daemon with that directory, and of its
// containers, by command line, and the IDs of the containers that
// shims of other daemons supervise.
func processes(dir string) (ours []string, others map[string]bool) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	others = map[string]bool{}
	for _, proc := range dirs {
		raw, err := os.ReadFile(proc + "/cmdline")
		if err != nil || len(raw) == 0 {
			continue
		}
		args := strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")
		line := strings.Join(args, " ")
		switch {
		case strings.Contains(line, dir+"/"):
			ours = append(ours, filepath.Base(proc)+" "+line)
		case strings.HasSuffix(args[0], "containerd-shim-runc-v2"):
			if i := slices.Index(args, "-id"); i >= 0 && i+1 < len(args) {
				others[args[i+1]] = true
			}
		case inContainer(proc, dir):
			// Without the process ID: a loop of short commands is one process.
			ours = append(ours, "in a container: "+line)
		}
	}
	return ours, others
}

// inContainer reports whether the process is in a container whose root file
// system is below dir.
func inContainer(proc, dir string) bool {
	cgroups, _ := os.ReadFile(proc + "/cgroup")
	if !strings.Contains(string(cgroups), "/docker/") {
		return false
	}
	mounts, _ := os.ReadFile(proc + "/mountinfo")
	return strings.Contains(string(mounts), dir+"/")
}

// compare fails the test for everything that is there now and was not before.
// Below dir no file of a container or a mount may remain.
func (before audit) compare(t testing.TB, dir string) {
	t.Helper()
	var left []string
	look := func() bool {
		left = nil
		now := takeAudit(t, dir)
		for kind, names := range now {
			for name := range names {
				if !before[kind][name] && !strings.HasPrefix(name, fmt.Sprintf("%d ", os.Getpid())) {
					left = append(left, kind+" "+name)
				}
			}
		}
		left = append(left, remains(dir)...)
		slices.Sort(left)
		return len(left) == 0
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(auditTimeout); !look(); <-tick.C {
		if time.Now().After(deadline) {
			t.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
			return
		}
	}
}

// remains lists what containers left in the daemon's directories.
func remains(dir string) []string {
	var left []string
	for _, pattern := range []string{"data/containers/*", "exec/containers/*", "*/io.containerd.runtime.v2.task/*/*", "*/*/*/io.containerd.runtime.v2.task/*/*", "data/tmp/*"} {
		found, _ := filepath.Glob(filepath.Join(dir, pattern))
		left = append(left, found...)
	}
	sockets := map[string]bool{}
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type() == fs.ModeSocket {
			sockets["socket "+path] = true
		}
		return nil
	})
	return append(left, slices.Sorted(maps.Keys(sockets))...)
}
