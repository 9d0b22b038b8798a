package local

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	eventapi "github.com/containerd/containerd/api/events"
	ttrpcevents "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestLocalSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Address: filepath.Join(dir, "c.sock"),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), "test"), time.Minute)
	defer cancel()
	l, err := New(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(ctx, cfg); !errdefs.IsUnavailable(err) {
		t.Errorf("second New = %v, want Unavailable", err)
	}
	for _, path := range []string{cfg.Root, cfg.State, filepath.Join(cfg.State, tasksDir)} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v, want mode 0700", path, fi, err)
		}
	}
	svc := l.Services()
	if !slices.Contains(l.Snapshotters(), "native") || svc.Snapshotter("native") == nil {
		t.Errorf("snapshotters = %v", l.Snapshotters())
	}
	created, errs := svc.Events.Subscribe(ctx, `topic=="/containers/create"`)
	if _, err := svc.Containers.Create(ctx, containers.Container{
		ID: "c1", Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2"}, Spec: &anypb.Any{TypeUrl: "s", Value: []byte("{}")},
	}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-created:
	case err := <-errs:
		t.Fatal(err)
	}
	uuid := l.UUID()
	if err := l.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if l, err = New(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	defer l.Close(ctx)
	if l.UUID() != uuid {
		t.Errorf("UUID = %q, was %q", l.UUID(), uuid)
	}
	if _, err := l.Services().Containers.Get(ctx, "c1"); err != nil {
		t.Error(err)
	}
}

func TestServeShims(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l, err := New(ctx, Config{
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Address: filepath.Join(dir, "c.sock"),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(dir, "c.sock.ttrpc"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- l.ServeShims(listener) }()
	conn, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	events, _ := l.Services().Events.Subscribe(ctx)
	payload, err := typeurl.MarshalAnyToProto(&eventapi.TaskExit{ContainerID: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	env := &types.Envelope{Timestamp: timestamppb.Now(), Namespace: "test", Topic: "/tasks/exit", Event: payload}
	if _, err := ttrpcevents.NewTTRPCEventsClient(client).Forward(ctx, &ttrpcevents.ForwardRequest{Envelope: env}); err != nil {
		t.Fatal(err)
	}
	if got := <-events; got.Topic != env.Topic || got.Namespace != "test" || !got.Timestamp.Equal(env.Timestamp.AsTime()) {
		t.Errorf("event = %+v", got)
	}
	for name, bad := range map[string]*types.Envelope{"empty": {}, "none": nil, "no time": {Namespace: "n", Topic: "/x", Event: payload}} {
		_, err := ttrpcevents.NewTTRPCEventsClient(client).Forward(ctx, &ttrpcevents.ForwardRequest{Envelope: bad})
		if !errdefs.IsInvalidArgument(errgrpc.ToNative(err)) {
			t.Errorf("Forward of %s = %v, want InvalidArgument", name, err)
		}
	}
	if err := l.Close(ctx); err != nil { // with the shim still connected
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Errorf("ServeShims = %v", err)
	}
}
