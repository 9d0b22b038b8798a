package main

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
)

func TestReadParams(t *testing.T) {
	cfg := config{id: "c", namespace: "ns"}
	marshal := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	opts, err := typeurl.MarshalAnyToProto(&options.Options{Root: "/x"})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		stdin   []byte
		version string
		how     reply
		printed string
	}{
		"nothing, old":     {nil, "", replyPlain, "unix:///s"},
		"nothing, 1.7":     {nil, "2", replyJSON, `{"version":2,"address":"unix:///s","protocol":"ttrpc"}`},
		"nothing, newer":   {nil, "9", replyJSON, `{"version":3,"address":"unix:///s","protocol":"ttrpc"}`},
		"runtime options":  {marshal(opts), "2", replyJSON, `{"version":2,"address":"unix:///s","protocol":"ttrpc"}`},
		"another's params": {marshal(&bootapi.BootstrapParams{InstanceID: "d", Namespace: "ns"}), "", replyPlain, "unix:///s"},
		"params": {marshal(&bootapi.BootstrapParams{InstanceID: "c", Namespace: "ns", ContainerdTtrpcAddress: "/t"}), "2", replyBootstrap,
			string(marshal(&bootapi.BootstrapResult{Version: 3, Address: "unix:///s", Protocol: "ttrpc"}))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("MAX_SHIM_VERSION", c.version)
			params, how, err := readParams(cfg, bytes.NewReader(c.stdin))
			if err != nil || how != c.how {
				t.Fatalf("reply %d, %v, want %d", how, err, c.how)
			}
			if how == replyBootstrap && params.ttrpcAddress != "/t" {
				t.Errorf("params %v", params)
			}
			var out bytes.Buffer
			if err := printAddress(&out, how, "unix:///s"); err != nil || out.String() != c.printed {
				t.Errorf("printed %q, %v, want %q", out.String(), err, c.printed)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, args := range []string{"start", "-namespace ../x start", "-namespace ns -id a/b start", "-namespace ns start serve", "-nosuch"} {
		if _, err := parse(strings.Fields(args)); err == nil {
			t.Errorf("parse(%q) succeeds", args)
		}
	}
}

func TestListenReplacesDeadSocketOnly(t *testing.T) {
	path := t.TempDir() + "/s"
	l, err := listen(path)
	if err != nil || l == nil {
		t.Fatal(l, err)
	}
	if again, err := listen(path); again != nil || err != nil {
		t.Errorf("listen beside a live server: %v, %v", again, err)
	}
	l.Close() // leaves the socket, as a killed shim does
	l, err = listen(path)
	if err != nil || l == nil {
		t.Fatal(l, err)
	}
	l.Close()
}

func TestVersionAndInfo(t *testing.T) {
	out, err := command(t.TempDir(), "-v").Output()
	if err != nil || !strings.Contains(string(out), "Lighter") {
		t.Errorf("-v prints %q, %v", out, err)
	}
	var info types.RuntimeInfo
	if out, err = command(t.TempDir(), "-info").Output(); err == nil {
		err = proto.Unmarshal(out, &info)
	}
	if err != nil || info.Name != "io.containerd.runc.v2" || !strings.Contains(info.Version.Version, "Lighter") {
		t.Errorf("-info prints %v, %v", &info, err)
	}
}

// The shim starts fast and stays small because it imports little.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-mod=mod", "-deps", ".").Output()
	if err != nil {
		t.Skip("needs the go command: ", err)
	}
	for dep := range strings.Lines(string(out)) {
		switch dep = strings.TrimSpace(dep); dep {
		case "google.golang.org/grpc", "net/http", "crypto/tls", "github.com/spf13/cobra", "github.com/containerd/containerd/v2/client":
			t.Errorf("the shim imports %s", dep)
		}
	}
}
