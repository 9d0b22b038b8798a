package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// buildkit is a client of the daemon's BuildKit API: gRPC without TLS on the
// Engine API's socket, as buildctl would use it.
func buildkit(t testing.TB, d *harness.Daemon) *client.Client {
	t.Helper()
	c, err := client.New(t.Context(), d.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// requestTimeout bounds one solve.
const requestTimeout = 30 * time.Second

// solveLLB solves a definition and throws the result away.
func solveLLB(t testing.TB, c *client.Client, def *llb.Definition, so client.SolveOpt) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), requestTimeout)
	defer cancel()
	status := make(chan *client.SolveStatus)
	go func() {
		for range status {
		}
	}()
	_, err := c.Solve(ctx, def, so, status)
	if ctx.Err() != nil {
		t.Errorf("the solve did not end: %v", err)
	}
	return err
}

// definition makes an LLB definition of operations as they are; inputs name the
// digests of those before.
func definition(t testing.TB, ops ...*pb.Op) *llb.Definition {
	t.Helper()
	def := &llb.Definition{Metadata: map[digest.Digest]llb.OpMetadata{}}
	for _, op := range ops {
		raw, err := op.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		def.Def = append(def.Def, raw)
	}
	return def
}

// TestBuildLLBSecurity sends what no frontend would: the process lives on, nothing
// is granted that was not asked for, no name leads out of a directory.
func TestBuildLLBSecurity(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	host := newCanary(t)
	c := buildkit(t, d)
	if err := solveLLB(t, c, must(llb.Scratch().File(llb.Mkdir("/x", 0o755)).Marshal(t.Context())), client.SolveOpt{}); err != nil {
		t.Fatal(err)
	}
	pid := buildProcess(d)
	survived := func(t *testing.T) {
		t.Helper()
		if now := buildProcess(d); now != pid {
			t.Fatalf("the build process %d died, now it is %d", pid, now)
		}
		host.check(t)
	}
	base := llb.Image("busybox:latest", llb.ResolveModePreferLocal)

	t.Run("CVE-2024-23650", func(t *testing.T) {
		scratch := &pb.Op{Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{{Input: -1, SecondaryInput: -1, Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: "/d"}}}}}}}
		last := func(of *pb.Op) *pb.Op {
			raw, err := of.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			return &pb.Op{Inputs: []*pb.Input{{Digest: string(digest.FromBytes(raw))}}}
		}
		exec := func(e *pb.ExecOp) *pb.Op { return &pb.Op{Op: &pb.Op_Exec{Exec: e}} }
		file := func(actions ...*pb.FileAction) *pb.Op {
			return &pb.Op{Op: &pb.Op_File{File: &pb.FileOp{Actions: actions}}}
		}
		for _, op := range map[string]*pb.Op{
			"no operation": {}, "empty exec": exec(&pb.ExecOp{}), "exec without meta": exec(&pb.ExecOp{Mounts: []*pb.Mount{{Dest: "/"}}}),
			"nil mount":              exec(&pb.ExecOp{Meta: &pb.Meta{Args: []string{"x"}}, Mounts: []*pb.Mount{nil}}),
			"mount index":            exec(&pb.ExecOp{Meta: &pb.Meta{Args: []string{"x"}}, Mounts: []*pb.Mount{{Dest: "/", Input: 1 << 30, Output: -7}}}),
			"cache without options":  exec(&pb.ExecOp{Meta: &pb.Meta{Args: []string{"x"}}, Mounts: []*pb.Mount{{Dest: "/", Input: -1, MountType: pb.MountType_CACHE}}}),
			"secret without options": exec(&pb.ExecOp{Meta: &pb.Meta{Args: []string{"x"}}, Mounts: []*pb.Mount{{Dest: "/", Input: -1}, {Dest: "/s", Input: -1, MountType: pb.MountType_SECRET}}}),
			"ssh without options":    exec(&pb.ExecOp{Meta: &pb.Meta{Args: []string{"x"}}, Mounts: []*pb.Mount{{Dest: "/", Input: -1}, {Dest: "/s", Input: -1, MountType: pb.MountType_SSH}}}),
			"device":                 exec(&pb.ExecOp{Meta: &pb.Meta{Args: []string{"x"}}, Mounts: []*pb.Mount{{Dest: "/", Input: -1}}, CdiDevices: []*pb.CDIDevice{nil, {Name: "x/y=z"}}}),
			"empty file":             file(), "nil action": file(nil), "action without kind": file(&pb.FileAction{Input: -1, SecondaryInput: -1}),
			"file index":         file(&pb.FileAction{Input: 1 << 30, SecondaryInput: -9, Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: "x"}}}),
			"file of itself":     file(&pb.FileAction{Input: 0, SecondaryInput: 0, Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{Src: "/", Dest: "/"}}}),
			"copy without input": file(&pb.FileAction{Input: -1, SecondaryInput: -1, Action: &pb.FileAction_Copy{}}),
			"nil mkdir":          file(&pb.FileAction{Input: -1, SecondaryInput: -1, Action: &pb.FileAction_Mkdir{}}),
			"merge":              {Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{Input: -1}, {Input: 1 << 30}, nil}}}},
			"empty merge":        {Op: &pb.Op_Merge{Merge: &pb.MergeOp{}}},
			"diff":               {Op: &pb.Op_Diff{Diff: &pb.DiffOp{Lower: &pb.LowerDiffInput{Input: -5}, Upper: &pb.UpperDiffInput{Input: 99}}}},
			"nil diff":           {Op: &pb.Op_Diff{Diff: &pb.DiffOp{}}}, "nil build": {Op: &pb.Op_Build{Build: &pb.BuildOp{}}},
			"source": {Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "://"}}}, "empty source": {Op: &pb.Op_Source{Source: &pb.SourceOp{}}},
			"own input": {Inputs: []*pb.Input{{Digest: "sha256:x", Index: -1}, nil}, Op: scratch.Op},
		} {
			for _, withBase := range []bool{false, true} {
				def := definition(t, op, last(op))
				if withBase {
					input := last(scratch).Inputs
					op.Inputs = append(op.Inputs, input...)
					def = definition(t, scratch, op, last(op))
				}
				solveLLB(t, c, def, client.SolveOpt{}) // some are harmless
				survived(t)
			}
		}
	})
	t.Run("CVE-2026-93321", func(t *testing.T) {
		state := base.Run(llb.Args([]string{"/bin/true"}), llb.AddMount("/m", llb.Scratch(), llb.AsPersistentCacheDir("fuzz", llb.CacheMountShared))).Root().File(llb.Mkfile("/f", 0o644, []byte("x")))
		state = llb.Merge([]llb.State{state, llb.Diff(base, state)})
		seed := must(state.Marshal(t.Context()))
		rounds := 60
		if os.Getenv("LIGHTER_TEST_SLOW") != "" {
			rounds = 20000
		}
		rng := rand.New(rand.NewPCG(1, 2))
		for range rounds {
			def := &llb.Definition{Metadata: seed.Metadata}
			for _, raw := range seed.Def {
				mutant := slices.Clone(raw)
				for range rng.IntN(3) {
					mutant[rng.IntN(len(mutant))] = byte(rng.IntN(256))
				}
				def.Def = append(def.Def, mutant)
			}
			ctx, cancel := context.WithTimeout(t.Context(), requestTimeout)
			_, err := c.ControlClient().Solve(ctx, &controlapi.SolveRequest{Ref: identity.NewID(), Definition: def.ToPB()})
			late := ctx.Err() != nil
			cancel()
			if late {
				t.Fatalf("a solve did not end: %v", err)
			}
		}
		survived(t)
		if strings.Contains(d.Log(), "panic serving") {
			t.Error("a request panicked: see the log")
		}
		d.OK("build", files{"Dockerfile": "FROM busybox\nRUN true\n"}.dir(t))
	})
	t.Run("CVE-2024-23653", func(t *testing.T) {
		insecure := base.Run(llb.Args([]string{"true"}), llb.Security(pb.SecurityMode_INSECURE)).Root()
		hostNet := base.Run(llb.Args([]string{"true"}), llb.Network(pb.NetMode_HOST)).Root()
		for name, s := range map[string]llb.State{"insecure": insecure, "host network": hostNet} {
			if err := solveLLB(t, c, must(s.Marshal(t.Context())), client.SolveOpt{}); err == nil || !strings.Contains(err.Error(), "is not allowed") {
				t.Errorf("%s without its entitlement: %v", name, err)
			}
		}
		survived(t)
	})
	t.Run("GHSA-7236-3392-c5c6", func(t *testing.T) {
		// A mode that nobody knows is refused, or is confinement.
		confined := []string{"sh", "-c", "grep -q '^Seccomp:.*2$' /proc/self/status && grep -q '^CapEff:.*00000000a80425fb$' /proc/self/status"}
		for _, mode := range []pb.SecurityMode{-1, 2, 99} {
			s := base.Run(llb.Args([]string{"sh", "-c", "! grep -q '^Seccomp:.*2$' /proc/self/status"})).Root()
			def := withExec(t, must(s.Marshal(t.Context())), func(e *pb.ExecOp) { e.Security = mode })
			if err := solveLLB(t, c, def, client.SolveOpt{}); err == nil {
				t.Errorf("security mode %d: the step ran unconfined", mode)
			}
		}
		if err := solveLLB(t, c, must(base.Run(llb.Args(confined)).Root().Marshal(t.Context())), client.SolveOpt{}); err != nil {
			t.Errorf("an ordinary step has not the default confinement: %v", err)
		}
		s := base.Run(llb.Args([]string{"sh", "-c", "ls /sys/class/net | grep -q docker0"})).Root()
		def := withExec(t, must(s.Marshal(t.Context())), func(e *pb.ExecOp) { e.Network = 99 })
		if err := solveLLB(t, c, def, client.SolveOpt{}); err == nil {
			t.Error("network mode 99: the step ran in the host's network")
		}
		survived(t)
	})
	t.Run("CVE-2026-33747", func(t *testing.T) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Disposition", `attachment; filename="../../../../../../../..`+host.dir+`/planted"`)
			io.WriteString(w, "evil")
		}))
		defer s.Close()
		name := "../../../../../../../.." + host.dir + "/planted"
		for _, src := range []llb.State{llb.HTTP(s.URL+"/a", llb.Filename(name)), llb.HTTP(s.URL + "/b"), llb.HTTP(s.URL+"/c", llb.Filename("..")), llb.HTTP(s.URL + "/%2e%2e%2fplanted")} {
			solveLLB(t, c, must(src.Marshal(t.Context())), client.SolveOpt{})
			survived(t)
		}
	})
	t.Run("GHSA-32pv-7hq5-qhwq", func(t *testing.T) {
		tree := base.Run(llb.Args([]string{"sh", "-c", "ln -s " + host.dir + " /out; ln -s ../../../../../../../../.. /up"})).Root()
		for _, path := range []string{"..", "a/../../x", "/..", "../*", "/out/*", "/out/secret", "/up" + host.dir + "/*", "../../../../../../../.." + host.dir, "../../../../../../../.." + host.dir + "/*"} {
			for _, wild := range []bool{false, true} {
				solveLLB(t, c, must(tree.File(llb.Rm(path, llb.WithAllowWildcard(wild), llb.WithAllowNotFound(true))).Marshal(t.Context())), client.SolveOpt{})
			}
		}
		survived(t)
		d.OK("run", "--rm", "busybox", "true")
	})
	t.Run("GHSA-g2h8-426c-7976", func(t *testing.T) {
		for name, entries := range map[string][]*fstypes.Stat{
			"parent":        {{Path: "../planted", Mode: 0o644, Size: 1}},
			"absolute":      {{Path: host.dir + "/planted", Mode: 0o644, Size: 1}},
			"through link":  {{Path: "a", Mode: uint32(iofs.ModeSymlink | 0o777), Linkname: host.dir}, {Path: "a/planted", Mode: 0o644, Size: 1}},
			"deep parent":   {{Path: "a", Mode: uint32(iofs.ModeDir | 0o755)}, {Path: "a/../../planted", Mode: 0o644, Size: 1}},
			"duplicate":     {{Path: "a", Mode: 0o644, Size: 1}, {Path: "a", Mode: 0o644, Size: 1}},
			"unsorted":      {{Path: "b", Mode: 0o644, Size: 1}, {Path: "a", Mode: 0o644, Size: 1}},
			"hard link out": {{Path: "a", Mode: 0o644, Linkname: "../../../../../../../../.." + host.dir + "/secret"}},
			"no name":       {{Path: "", Mode: 0o644, Size: 1}},
		} {
			src := llb.Local("evil")
			err := solveLLB(t, c, must(base.File(llb.Copy(src, "/", "/got")).Marshal(t.Context())), client.SolveOpt{Session: []session.Attachable{
				filesync.NewFSSyncProvider(filesync.StaticDirSource{"evil": liar(entries)}),
			}})
			if err == nil && name != "hard link out" {
				t.Errorf("%s: the client's files were taken", name)
			}
			survived(t)
		}
	})
	t.Run("GHSA-f2v9-hprr-32q3", func(t *testing.T) {
		forged(t, d)
		// Refused, or built on the layer that the configuration names: never on the
		// other one, and what comes after has not seen it either.
		d.Docker("build", "-t", "onforged", "--no-cache", files{"Dockerfile": "FROM forged\nRUN true\n"}.dir(t))
		if r := d.Docker("run", "--rm", "onforged", "ls", "/evil"); r.Code == 0 {
			t.Error("a layer that is not what the image's configuration says was used")
		}
		d.OK("build", "--no-cache", files{"Dockerfile": "FROM busybox\nRUN test ! -e /evil\n"}.dir(t))
		survived(t)
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// withExec changes the last step of a definition.
func withExec(t testing.TB, def *llb.Definition, change func(*pb.ExecOp)) *llb.Definition {
	t.Helper()
	var before, after string
	changed := &llb.Definition{Metadata: map[digest.Digest]llb.OpMetadata{}}
	for _, raw := range def.Def {
		var op pb.Op
		if err := op.Unmarshal(raw); err != nil {
			t.Fatal(err)
		}
		for _, in := range op.Inputs {
			if in.Digest == before {
				in.Digest = after
			}
		}
		if e := op.GetExec(); e != nil {
			change(e)
			before = string(digest.FromBytes(raw))
		}
		out, err := op.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if op.GetExec() != nil {
			after = string(digest.FromBytes(out))
		}
		changed.Def = append(changed.Def, out)
	}
	return changed
}

// liar is a client's directory that tells of files as they can't be.
type liar []*fstypes.Stat

// Walk implements fsutil.FS.
func (l liar) Walk(_ context.Context, _ string, fn iofs.WalkDirFunc) error {
	for _, s := range l {
		if err := fn(s.Path, &fsutil.DirEntryInfo{Stat: s}, nil); err != nil {
			return err
		}
	}
	return nil
}

// Open implements fsutil.FS.
func (l liar) Open(string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("x")), nil }

// forged loads an image "forged" whose configuration names the layer of another.
func forged(t testing.TB, d *harness.Daemon) {
	t.Helper()
	var config struct{ RootFS struct{ Layers []string } }
	if err := json.Unmarshal([]byte(d.OK("inspect", "-f", `{"RootFS":{{json .RootFS}}}`, "busybox")), &config); err != nil {
		t.Fatal(err)
	}
	layer := files{"evil": "evil"}.archive(t)
	image := fmt.Sprintf(`{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[%q]}}`, config.RootFS.Layers[0])
	archive := filepath.Join(t.TempDir(), "forged.tar")
	content := files{"config.json": image, "layer.tar": string(layer), "manifest.json": `[{"Config":"config.json","RepoTags":["forged:latest"],"Layers":["layer.tar"]}]`}
	if err := os.WriteFile(archive, content.archive(t), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Docker("load", "-i", archive) // refused here or when it is used
}

// withSession opens a session that offers nothing, until the test ends.
func withSession(t testing.TB, d *harness.Daemon) (id string) {
	t.Helper()
	s, err := session.NewSession(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	c := buildkit(t, d)
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context(), c.Dialer()) }()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return s.ID()
}
