package metadata

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"

	localcontent "lighter/containerd/content"
	"lighter/containerd/snapshot"
)

const (
	crashDir   = "LIGHTER_CRASH_DIR"   // makes the test binary the process that is killed
	crashPoint = "LIGHTER_CRASH_POINT" // the how-manieth point kills it, 0 for none
)

// step is an operation and what it changes, in the words of world.list.
type step struct {
	name      string
	do        func(t *testing.T, ctx context.Context, w *world) error
	adds, del []string
}

func crashSteps() []step {
	file := func(t *testing.T, w *world, ctx context.Context, key string) error {
		mounts, err := w.Snapshotter("fake").Mounts(ctx, key)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(mounts[0].Source, "file"), []byte(key), 0o600)
	}
	return []step{
		{name: "lease", adds: []string{"lease l"}, do: func(_ *testing.T, ctx context.Context, w *world) error {
			_, err := w.Leases().Create(ctx, leases.WithID("l"))
			return err
		}},
		{name: "content", adds: []string{"content m"}, do: func(t *testing.T, ctx context.Context, w *world) error {
			write(t, leases.WithLease(ctx, "l"), w.Content(), "m", nil)
			return nil
		}},
		{name: "prepare", adds: []string{"snapshot extract"}, do: func(t *testing.T, ctx context.Context, w *world) error {
			ctx = leases.WithLease(ctx, "l")
			sn := w.Snapshotter("fake")
			_, err := sn.Prepare(ctx, "extract", "", snapshot.Deferred(sn)...)
			if err == nil {
				err = file(t, w, ctx, "extract")
			}
			return err
		}},
		{name: "commit", adds: []string{"snapshot s"}, del: []string{"snapshot extract"}, do: func(_ *testing.T, ctx context.Context, w *world) error {
			sn := w.Snapshotter("fake")
			return sn.Commit(leases.WithLease(ctx, "l"), "s", "extract", snapshot.Deferred(sn)...)
		}},
		{name: "sync", do: func(_ *testing.T, ctx context.Context, w *world) error {
			return snapshot.Sync(ctx, w.Snapshotter("fake"))
		}},
		{name: "image", adds: []string{"image i"}, do: func(_ *testing.T, ctx context.Context, w *world) error {
			_, err := w.Images().Create(ctx, image("i", "m", map[string]string{labelRefSnapshot + "fake": "s"}))
			return err
		}},
		{name: "end lease", del: []string{"lease l"}, do: func(_ *testing.T, ctx context.Context, w *world) error {
			return w.Leases().Delete(ctx, leases.Lease{ID: "l"}, leases.SynchronousDelete)
		}},
		{name: "container", adds: []string{"container c"}, do: func(_ *testing.T, ctx context.Context, w *world) error {
			_, err := w.Containers().Create(ctx, container("c", "rw", nil))
			return err
		}},
		{name: "rootfs", adds: []string{"snapshot rw"}, do: func(t *testing.T, ctx context.Context, w *world) error {
			_, err := w.Snapshotter("fake").Prepare(ctx, "rw", "s")
			return err
		}},
		{name: "keep", adds: []string{"snapshot kept"}, do: func(t *testing.T, ctx context.Context, w *world) error {
			sn := w.Snapshotter("fake")
			keep := snapshots.WithLabels(map[string]string{labelRoot: "1"})
			if _, err := sn.Prepare(ctx, "keep", "s", keep); err != nil {
				return err
			}
			return sn.Commit(ctx, "kept", "keep", keep)
		}},
		{name: "rm", del: []string{"container c", "snapshot rw"}, do: func(_ *testing.T, ctx context.Context, w *world) error {
			if err := w.Containers().Delete(ctx, "c"); err != nil {
				return err
			}
			return w.GC(ctx)
		}},
		{name: "remove kept", del: []string{"snapshot kept"}, do: func(_ *testing.T, ctx context.Context, w *world) error {
			if err := w.Snapshotter("fake").Remove(ctx, "kept"); err != nil {
				return err
			}
			return w.GC(ctx)
		}},
		{name: "rmi", del: []string{"image i", "content m", "snapshot s"}, do: func(_ *testing.T, ctx context.Context, w *world) error {
			return w.Images().Delete(ctx, "i", images.SynchronousDelete())
		}},
	}
}

func openCrashed(t *testing.T, dir string) *world {
	t.Helper()
	blobs, err := localcontent.Open(filepath.Join(dir, "content"), nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := snapshot.OpenNative(filepath.Join(dir, "native"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := Open(t.Context(), Config{
		Path: filepath.Join(dir, "meta.db"), Blobs: blobs, Snapshotters: map[string]snapshot.Driver{"fake": d}, Log: testLog(t), GCDelay: never,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		db.Close()
		d.Close()
	})
	return &world{DB: db, dir: dir, blobs: blobs}
}

// TestCrashChild is the process that is killed; run by itself it does nothing.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		return
	}
	kill, err := strconv.Atoi(os.Getenv(crashPoint))
	if err != nil {
		t.Fatal(err)
	}
	w := openCrashed(t, dir)
	var hits atomic.Int64
	w.failpoint = func(point string) {
		if hits.Add(1) == int64(kill) {
			fmt.Println("POINT", point)
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until the signal arrives
		}
	}
	ctx := namespaces.WithNamespace(context.Background(), "ns")
	for _, s := range crashSteps() {
		if err := s.do(t, ctx, w); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		fmt.Println("DONE", s.name) // acknowledged: a restart must know it
	}
	fmt.Println("END")
}

// crash runs the child in dir and returns how many steps it acknowledged and
// whether it came to the end. after > 0 kills it then.
func crash(t *testing.T, dir string, point int, after time.Duration) (done int, at string, ended bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), crashDir+"="+dir, crashPoint+"="+strconv.Itoa(point))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if after > 0 {
		timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
		defer timer.Stop()
	}
	var rest []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		switch word, arg, _ := strings.Cut(lines.Text(), " "); word {
		case "DONE":
			done++
		case "POINT":
			at = arg
		case "END":
			ended = true
		default:
			rest = append(rest, lines.Text())
		}
	}
	if err := cmd.Wait(); err != nil && cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("child: %v\n%s", err, strings.Join(rest, "\n"))
	}
	return done, at, ended
}

// checkCrashed reopens dir and compares it with what was acknowledged.
func checkCrashed(t *testing.T, dir string, done int) {
	t.Helper()
	w := openCrashed(t, dir)
	ctx := inNS(t, "ns")
	if err := w.GC(ctx); err != nil {
		t.Fatal(err)
	}
	steps := crashSteps()
	var must, may []string
	for _, s := range steps[:done] {
		must = slices.DeleteFunc(append(must, s.adds...), func(x string) bool { return slices.Contains(s.del, x) })
	}
	may = slices.Clone(must)
	if done < len(steps) {
		next := steps[done]
		may = append(may, next.adds...)
		may = append(may, "snapshot keep", "ingest ref-m")
		must = slices.DeleteFunc(must, func(x string) bool { return slices.Contains(next.del, x) })
	}
	got := w.list(t, ctx)
	for _, x := range must {
		if !slices.Contains(got, x) {
			t.Errorf("lost %q; have %v", x, got)
		}
	}
	for _, x := range got {
		if !slices.Contains(may, x) {
			t.Errorf("%q is there; want at most %v", x, may)
		}
	}
	w.checkFiles(t)
	if slices.Contains(got, "snapshot s") {
		mounts, err := w.Snapshotter("fake").View(ctx, "look", "s")
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(mounts[0].Source, "file")); string(b) != "extract" {
			t.Errorf("file in the snapshot = %q, %v", b, err)
		}
	}
	if slices.Contains(got, "content m") {
		if _, err := w.Content().Info(ctx, digest.FromString("m")); err != nil {
			t.Error(err)
		}
	}
}

// TestKillAtEveryPoint kills the process at each point between two steps of its
// operations and restarts.
func TestKillAtEveryPoint(t *testing.T) {
	points := make(map[string]bool)
	for point := 1; ; point++ {
		dir := t.TempDir()
		done, at, ended := crash(t, dir, point, 0)
		if ended {
			break
		}
		points[at] = true
		t.Run(fmt.Sprintf("%d %s", point, at), func(t *testing.T) { checkCrashed(t, dir, done) })
		if point > 200 {
			t.Fatal("the child never ends")
		}
	}
	for _, want := range []string{
		"ingest recorded", "blob committed", "snapshot created", "snapshot recorded", "snapshot synced", "driver synced",
		"snapshot removed", "garbage recorded", "snapshot files removed",
	} {
		if !points[want] {
			t.Errorf("no operation passes the point %q", want)
		}
	}
}

// TestKillAtAnyTime kills it at random.
func TestKillAtAnyTime(t *testing.T) {
	rounds := 40
	if testing.Short() {
		rounds = 5
	}
	for range rounds {
		dir := t.TempDir()
		after := time.Duration(1+rand.IntN(60)) * time.Millisecond
		done, _, _ := crash(t, dir, 0, after)
		t.Run(fmt.Sprintf("%s after %d steps", after, done), func(t *testing.T) { checkCrashed(t, dir, done) })
	}
}
