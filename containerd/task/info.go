package task

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
)

// RuntimeInfo asks the shim of runtime, a path or a name, what it and the OCI
// runtime that it drives can do. options are the runtime options, nil for the
// shim's defaults.
func (m *Manager) RuntimeInfo(ctx context.Context, runtime string, options typeurl.Any) (*types.RuntimeInfo, error) {
	binary, err := m.binaries.find(runtime)
	if err != nil {
		return nil, fmt.Errorf("runtime info: %w", err)
	}
	var stdin []byte
	if options != nil {
		if stdin, err = proto.Marshal(toAny(options)); err != nil {
			return nil, fmt.Errorf("runtime info: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, promptTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-info")
	cmd.Env = m.baseEnv
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.WaitDelay = time.Second
	stdout, stderr := &boundedBuffer{limit: maxSmallFile}, &boundedBuffer{limit: 4096, truncate: true}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("runtime info: run %q: %s: %w", binary, bytes.TrimSpace(stderr.buf), err)
	}
	var info types.RuntimeInfo
	if err := proto.Unmarshal(stdout.buf, &info); err != nil {
		return nil, fmt.Errorf("runtime info: answer of %q: %w", binary, err)
	}
	return &info, nil
}
