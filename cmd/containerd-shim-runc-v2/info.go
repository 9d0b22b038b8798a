package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os/exec"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"lighter/internal/version"
	"lighter/shim/taskrpc"
)

// featuresType is the name under which containerd knows the OCI features
// document, which travels as JSON.
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// printInfo answers containerd's question what this runtime is.
func printInfo(stdin io.Reader, stdout io.Writer) error {
	b, err := io.ReadAll(io.LimitReader(stdin, maxParams))
	if err != nil {
		return fmt.Errorf("read runtime options: %w", err)
	}
	info := &types.RuntimeInfo{
		Name:    "io.containerd.runc.v2",
		Version: &types.RuntimeVersion{Version: version.Product + " " + version.Version, Revision: version.GitCommit},
	}
	program := "runc"
	if len(b) > 0 {
		info.Options = &anypb.Any{}
		if err := proto.Unmarshal(b, info.Options); err != nil {
			return fmt.Errorf("read runtime options: %w", err)
		}
		opts, err := taskrpc.Options(info.Options)
		if err != nil {
			return err
		}
		if opts.BinaryName != "" {
			program = opts.BinaryName
		}
	}
	// Not every runtime can tell its features.
	if out, err := exec.Command(program, "features").Output(); err == nil && json.Valid(out) {
		info.Features = &anypb.Any{TypeUrl: featuresType, Value: out}
	}
	if b, err = proto.Marshal(info); err == nil {
		_, err = stdout.Write(b)
	}
	if err != nil {
		return fmt.Errorf("print runtime info: %w", err)
	}
	return nil
}
