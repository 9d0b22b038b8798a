package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os/exec"

	"lighter/internal/version"
	"lighter/shim/taskrpc"
	"lighter/shim/wire"
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
	program := "runc"
	var options wire.Any
	if len(b) > 0 {
		if options, err = wire.ParseAny(b); err != nil {
			return fmt.Errorf("read runtime options: %w", err)
		}
		opts, err := taskrpc.Options(options)
		if err != nil {
			return err
		}
		if opts.BinaryName != "" {
			program = opts.BinaryName
		}
	}
	// containerd.types.RuntimeInfo.
	var info wire.Encoder
	info.Text(1, "io.containerd.runc.v2")
	info.Message(2, func(e *wire.Encoder) {
		e.Text(1, version.Product+" "+version.Version)
		e.Text(2, version.GitCommit)
	})
	info.Any(3, options)
	// Not every runtime can tell its features.
	if out, err := exec.Command(program, "features").Output(); err == nil && json.Valid(out) {
		info.Any(4, wire.Any{Type: featuresType, Value: out})
	}
	if _, err := stdout.Write(info.Bytes()); err != nil {
		return fmt.Errorf("print runtime info: %w", err)
	}
	return nil
}
