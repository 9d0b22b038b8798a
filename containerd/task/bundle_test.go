package task

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

func TestPhasesMatchTheirDrawing(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	drawn := make(map[string]bool)
	for line := range strings.Lines(string(doc)) {
		f := strings.Fields(strings.NewReplacer("//", "", "-->", " ", "--", " ").Replace(line))
		if strings.Contains(line, "-->") && len(f) == 3 {
			drawn[fmt.Sprint(f)] = true
		}
	}
	for p := creating; p <= gone; p++ {
		for c := created; c <= removed; c++ {
			to, err := p.next(c)
			arrow := fmt.Sprint([]string{p.String(), c.String(), to.String()})
			if err == nil && !drawn[arrow] {
				t.Errorf("%s is not drawn", arrow)
			}
			if err != nil && (!errdefs.IsFailedPrecondition(err) || to != p) {
				t.Errorf("%v.next(%v) = %v, %v, want FailedPrecondition and no move", p, c, to, err)
			}
			delete(drawn, arrow)
		}
	}
	for arrow := range drawn {
		t.Errorf("%s is drawn and does not exist", arrow)
	}
}

func TestParseBootstrap(t *testing.T) {
	pb := func(r *bootapi.BootstrapResult) []byte {
		data, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for name, tt := range map[string]struct {
		in   []byte
		want bootstrap
		is   func(error) bool
	}{
		"protobuf":       {in: pb(&bootapi.BootstrapResult{Version: 3, Address: "unix:///s", Protocol: "ttrpc"}), want: bootstrap{3, "unix:///s", "ttrpc"}},
		"no protocol":    {in: pb(&bootapi.BootstrapResult{Version: 2, Address: "unix:///s"}), want: bootstrap{2, "unix:///s", "ttrpc"}},
		"JSON":           {in: []byte(`{"version":3,"address":"unix:///s","protocol":"grpc"}` + "\n"), want: bootstrap{3, "unix:///s", "grpc"}},
		"plain":          {in: []byte("unix:///s\n"), want: bootstrap{2, "unix:///s", "ttrpc"}},
		"new version":    {in: []byte(`{"version":4,"address":"unix:///s"}`), is: errdefs.IsNotImplemented},
		"old version":    {in: []byte(`{"version":1,"address":"unix:///s"}`), is: errdefs.IsNotImplemented},
		"empty":          {in: nil, is: errdefs.IsInvalidArgument},
		"blank":          {in: []byte("  \n"), is: errdefs.IsInvalidArgument},
		"broken JSON":    {in: []byte(`{"version"`), is: func(err error) bool { return err != nil }},
		"broken message": {in: []byte{8}, is: func(err error) bool { return err != nil }},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseBootstrap(tt.in)
			if tt.is != nil {
				if !tt.is(err) {
					t.Errorf("parseBootstrap = %+v, %v, want another error", got, err)
				}
			} else if err != nil || got != tt.want {
				t.Errorf("parseBootstrap = %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}

func FuzzParseBootstrap(f *testing.F) {
	f.Add([]byte(`{"version":3,"address":"unix:///s"}`))
	f.Add([]byte("unix:///s"))
	f.Add([]byte{8, 3, 18, 1, '/'})
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := parseBootstrap(data)
		if err == nil && (b.Address == "" || b.Protocol == "" || b.Version < 2 || b.Version > maxShimVersion) {
			t.Errorf("accepted %+v", b)
		}
	})
}

func TestSocketPathRefusesAbstract(t *testing.T) {
	for address, want := range map[string]string{
		"unix:///run/s": "/run/s", "/run/s": "/run/s",
		"unix://\x00/s": "", "unix:///a\x00b": "", "@s": "", "vsock://3:4": "", "": "",
	} {
		got, err := socketPath(address)
		if got != want || (want == "") != errdefs.IsInvalidArgument(err) {
			t.Errorf("socketPath(%q) = %q, %v, want %q", address, got, err, want)
		}
	}
}

func TestRemoveSparesWhatIsMounted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	precious := t.TempDir()
	if err := os.WriteFile(filepath.Join(precious, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := makeBundle(filepath.Join(t.TempDir(), "ns", "id"), []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // stacked
		if err := unix.Mount(precious, b.file("rootfs"), "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(precious, "file")); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(filepath.Dir(b.path)); err != nil || len(entries) != 0 {
		t.Errorf("left %v, %v", entries, err)
	}
	if err := b.remove(); err != nil {
		t.Errorf("second remove: %v", err)
	}
}

func TestParseMaker(t *testing.T) {
	for out, want := range map[string]maker{
		"containerd-shim-runc-v2:\n  Version:  1.6.20~ds1\n  Revision: x\n": legacy,
		"containerd-shim-runc-v2:\n  Version:  v1.7.27\n":                   legacy,
		"containerd-shim-runc-v2:\n  Version:  v2.2.1\n":                    legacy,
		"containerd-shim-runc-v2:\n  Version:  v2.3.0-beta.1\n":             stock,
		"containerd-shim-runc-v2:\n  Version:  v3.0.0\n":                    stock,
		"containerd-shim-runc-v2:\n  Version:  2.0.0\n  Product: Lighter\n": ours,
		"containerd-shim-runsc-v1: release-20250101.0":                      stock,
		"": stock,
	} {
		if got := parseMaker(out); got != want {
			t.Errorf("parseMaker(%q) = %v, want %v", out, got, want)
		}
	}
}

func TestFindShim(t *testing.T) {
	dir := t.TempDir()
	shim := filepath.Join(dir, "containerd-shim-runc-v2")
	if err := os.WriteFile(shim, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "containerd-shim-data-v1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", "")
	b := newBinaries([]string{dir}, nil, nil)
	for runtime, is := range map[string]func(error) bool{
		"io.containerd.runc.v2": nil, shim: nil,
		"io.containerd.none.v2": errdefs.IsNotFound, "io.containerd.data.v1": errdefs.IsNotFound, dir + "/none": errdefs.IsNotFound,
		"runc": errdefs.IsInvalidArgument, "": errdefs.IsInvalidArgument, "a/b.c": errdefs.IsInvalidArgument, "io.": errdefs.IsInvalidArgument,
	} {
		got, err := b.find(runtime)
		if is == nil && (err != nil || got != shim) || is != nil && !is(err) {
			t.Errorf("find(%q) = %q, %v", runtime, got, err)
		}
	}
}
