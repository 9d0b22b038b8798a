package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	ttrpcevents "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	publishTimeout = 10 * time.Second
	maxEventSize   = 1 << 20 // bytes
)

// publish sends the event on stdin, a binary google.protobuf.Any, to the daemon:
// what shims of old run as their -publish-binary. The daemon is that of
// TTRPC_ADDRESS, or of --address.
func publish(ctx context.Context, f *flags, stdin io.Reader) error {
	if f.topic == "" || f.namespace == "" {
		return errors.New("publish: --topic and --namespace are needed")
	}
	data, err := io.ReadAll(io.LimitReader(stdin, maxEventSize+1))
	if err != nil {
		return fmt.Errorf("publish: read event: %w", err)
	}
	if len(data) > maxEventSize {
		return fmt.Errorf("publish: event is larger than %d bytes", maxEventSize)
	}
	var payload anypb.Any
	if err := proto.Unmarshal(data, &payload); err != nil {
		return fmt.Errorf("publish: decode event: %w", err)
	}
	address := os.Getenv("TTRPC_ADDRESS")
	if f.address != "" || address == "" {
		address = defaultAddress
		if f.address != "" {
			address = f.address
		}
		address += ".ttrpc"
	}
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(ctx, f.namespace), publishTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	_, err = ttrpcevents.NewTTRPCEventsClient(client).Forward(ctx, &ttrpcevents.ForwardRequest{Envelope: &types.Envelope{
		Timestamp: timestamppb.Now(), Namespace: f.namespace, Topic: f.topic, Event: &payload,
	}})
	if err != nil {
		return fmt.Errorf("publish: %w", errgrpc.ToNative(err))
	}
	return nil
}
