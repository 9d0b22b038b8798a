package containerd

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	transfertypes "github.com/containerd/containerd/api/types/transfer"
	streamproxy "github.com/containerd/containerd/v2/core/streaming/proxy"
	transferstream "github.com/containerd/containerd/v2/core/transfer/streaming"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"lighter/test/harness"
)

// The transfer service, which newer clients use for images, with stock ends of
// its streams.
func TestTransfer(t *testing.T) {
	c := ours(t)
	reg := harness.Registry(t)
	conn, err := grpc.NewClient("unix://"+c.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(t.Context(), "default"), time.Minute)
	defer cancel()
	streams := streamproxy.NewStreamCreator(conn)
	transfer := func(src, dst proto.Message, progress string) error {
		from, err := typeurl.MarshalAnyToProto(src)
		if err != nil {
			t.Fatal(err)
		}
		to, err := typeurl.MarshalAnyToProto(dst)
		if err != nil {
			t.Fatal(err)
		}
		_, err = transferapi.NewTransferClient(conn).Transfer(ctx, &transferapi.TransferRequest{
			Source: from, Destination: to, Options: &transferapi.TransferOptions{ProgressStream: progress},
		})
		return errgrpc.ToNative(err)
	}
	send := func(id string, r io.Reader) *transfertypes.ImageImportStream {
		s, err := streams.Create(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		transferstream.SendStream(ctx, r, s)
		return &transfertypes.ImageImportStream{Stream: id}
	}
	receive := func(id string) (*transfertypes.ImageExportStream, io.Reader) {
		s, err := streams.Create(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		return &transfertypes.ImageExportStream{Stream: id}, transferstream.ReceiveStream(ctx, s)
	}
	plain := &transfertypes.RegistryResolver{DefaultScheme: "http"}

	// Bytes go both ways at once, in more than a window.
	sent := bytes.Repeat([]byte("0123456789"), 30000)
	out, r := receive("echo-out")
	got := make(chan []byte, 1)
	go func() { b, _ := io.ReadAll(r); got <- b }()
	if err := transfer(send("echo-in", bytes.NewReader(sent)), out, ""); err != nil {
		t.Fatal(err)
	}
	if b := <-got; !bytes.Equal(b, sent) {
		t.Errorf("%d bytes came back, want %d", len(b), len(sent))
	}

	name := reg + "/transferred:1"
	if err := transfer(&transfertypes.ImageStore{Name: harness.Busybox}, &transfertypes.ImageStore{Name: name}, ""); err != nil {
		t.Fatalf("tag: %v", err)
	}
	if err := transfer(&transfertypes.ImageStore{Name: name}, &transfertypes.OCIRegistry{Reference: name, Resolver: plain}, ""); err != nil {
		t.Fatalf("push: %v", err)
	}
	out, r = receive("export")
	go func() { b, _ := io.ReadAll(r); got <- b }()
	if err := transfer(&transfertypes.ImageStore{Name: name}, out, ""); err != nil {
		t.Fatalf("export: %v", err)
	}
	archive := <-got
	c.OK("images", "rm", "--sync", name, harness.Busybox)

	// A pull that unpacks, and reports.
	progress, err := streams.Create(ctx, "progress")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex // guards events
	var events []string
	told := make(chan struct{})
	go func() {
		defer close(told)
		for {
			m, err := progress.Recv()
			if err != nil {
				return
			}
			var p transfertypes.Progress
			if err := typeurl.UnmarshalTo(m, &p); err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			events = append(events, p.GetEvent())
			mu.Unlock()
		}
	}()
	dst := &transfertypes.ImageStore{Name: name, Labels: map[string]string{"a": "b"}, Unpacks: []*transfertypes.UnpackConfiguration{{}}}
	if err := transfer(&transfertypes.OCIRegistry{Reference: name, Resolver: plain}, dst, "progress"); err != nil {
		t.Fatalf("pull: %v", err)
	}
	<-told
	for _, want := range []string{"complete", "extracted", "saved"} {
		if !slices.Contains(events, want) {
			t.Errorf("events %q, want %q among them", events, want)
		}
	}
	if got := c.OK("images", "ls", "-q", "labels.a==b"); got != name {
		t.Errorf("labelled images %q", got)
	}
	wants(t, c.Ctr("run", "--rm", name, "transferred", "echo", "transferred"), 0, "transferred\n")

	// The archive's names count below the prefix only.
	c.OK("images", "rm", "--sync", name)
	refs := []*transfertypes.ImageReference{{Name: reg + "/transferred", IsPrefix: true}}
	if err := transfer(send("import", bytes.NewReader(archive)), &transfertypes.ImageStore{Name: "whole:1", ExtraReferences: refs}, ""); err != nil {
		t.Fatalf("import: %v", err)
	}
	if got := strings.Fields(c.OK("images", "ls", "-q")); !slices.Equal(got, []string{name, "whole:1"}) {
		t.Errorf("images %q after the import", got)
	}

	for what, err := range map[string]error{
		"no stream":       transfer(&transfertypes.ImageImportStream{Stream: "none"}, dst, ""),
		"no image":        transfer(&transfertypes.ImageStore{Name: "none"}, dst, ""),
		"no such image":   transfer(&transfertypes.OCIRegistry{Reference: reg + "/none:1", Resolver: plain}, dst, ""),
		"no progress":     transfer(&transfertypes.ImageStore{Name: name}, dst, "none"),
		"no stream to go": transfer(&transfertypes.ImageStore{Name: name}, &transfertypes.ImageExportStream{Stream: "none"}, ""),
	} {
		if !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v, want NotFound", what, err)
		}
	}
	if err := transfer(&transfertypes.OCIRegistry{Reference: name}, &transfertypes.OCIRegistry{Reference: name}, ""); !errdefs.IsNotImplemented(err) {
		t.Errorf("registry to registry: %v, want NotImplemented", err)
	}
	if err := transfer(send("garbage", strings.NewReader("no archive")), dst, ""); !errdefs.IsInvalidArgument(err) {
		t.Errorf("import of no archive: %v, want InvalidArgument", err)
	}
}
