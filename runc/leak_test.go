//lint:file-ignore SA1019 prestart hooks are deprecated, and still part of the specification.

package runc

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func itoa(n int) string { return strconv.Itoa(n) }

// audit counts what a container might leave behind.
type audit struct {
	mounts, fds, children, groups, states int
}

func (h *harness) audit() audit {
	h.t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	must(h.t, err)
	a := audit{mounts: mountCount(h.t, filepath.Dir(h.bundle)), fds: len(fds)}
	children, err := filepath.Glob("/proc/self/task/*/children")
	must(h.t, err)
	for _, c := range children {
		raw, err := os.ReadFile(c)
		if err == nil {
			a.children += len(strings.Fields(string(raw)))
		}
	}
	prefix := "lighter-test-" + itoa(os.Getpid()) + "-"
	for _, pattern := range []string{"/sys/fs/cgroup/" + prefix + "*", "/sys/fs/cgroup/*/" + prefix + "*", "/sys/fs/cgroup/*/*/*/" + prefix + "*"} {
		list, err := filepath.Glob(pattern)
		must(h.t, err)
		a.groups += len(list)
	}
	entries, err := os.ReadDir(h.root)
	if err == nil {
		a.states = len(entries)
	}
	return a
}

// Two hundred containers, good ones and such that fail at different points, leave
// nothing: no mount, descriptor, process, control group or state.
func TestLeaks(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	h := newHarness(t)
	bad := func(edit func(*specs.Spec)) *specs.Spec {
		s := h.spec("true")
		edit(s)
		return s
	}
	specsList := []*specs.Spec{
		h.spec("true"),
		h.spec("sh", "-c", "sleep 1000 & sleep 1000 & exit 3"),
		h.spec("/no/such"),
		bad(func(s *specs.Spec) { s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "nofs"}) }),
		bad(func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{Prestart: []specs.Hook{{Path: "/bin/false"}}}
		}),
	}
	cycle := func(i int) {
		s := specsList[i%len(specsList)]
		_, err := h.run(s)
		if wantErr := i%len(specsList) >= 2; (err != nil) != wantErr {
			t.Fatalf("cycle %d: error %v", i, err)
		}
	}
	for i := range specsList { // what the first use makes stays: the poller
		cycle(i)
	}
	before := h.audit()
	for i := range 200 {
		cycle(i)
	}
	reapAll()
	if after := h.audit(); after != before {
		t.Errorf("left behind: before %+v, after %+v", before, after)
	}
}

func BenchmarkRuntime_RunDelete(b *testing.B) {
	h := newHarness(b)
	h.write(h.spec("true"))
	b.ReportAllocs()
	for b.Loop() {
		id := h.id()
		pid, err := h.rt.Run(b.Context(), id, CreateOptions{Bundle: h.bundle})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
			b.Fatal(err)
		}
		if err := h.rt.Delete(b.Context(), id, false); err != nil {
			b.Fatal(err)
		}
	}
}
