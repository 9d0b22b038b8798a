package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxHookInput bounds the state and the config.json of a container, in bytes.
const maxHookInput = 16 << 20

// ociHook becomes the program args of a container's hook. Arguments and
// environment are templates over the container's state, which is read from stdin.
// It returns only with an error.
func ociHook(args []string, stdin io.Reader) error {
	if len(args) == 0 {
		return errors.New("oci-hook: no program to run")
	}
	fill, err := hookTemplates(stdin)
	if err != nil {
		return fmt.Errorf("oci-hook: %w", err)
	}
	if args, err = fill(args); err != nil {
		return fmt.Errorf("oci-hook: arguments: %w", err)
	}
	env, err := fill(os.Environ())
	if err != nil {
		return fmt.Errorf("oci-hook: environment: %w", err)
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return fmt.Errorf("oci-hook: %w", err)
	}
	return fmt.Errorf("oci-hook: exec %q: %w", path, syscall.Exec(path, args, env))
}

// hookTemplates returns what fills in templates from the state on stdin.
func hookTemplates(stdin io.Reader) (func([]string) ([]string, error), error) {
	var state specs.State
	if err := json.NewDecoder(io.LimitReader(stdin, maxHookInput)).Decode(&state); err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	f, err := os.Open(filepath.Join(state.Bundle, "config.json"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var spec struct{ Root specs.Root }
	if err := json.NewDecoder(io.LimitReader(f, maxHookInput)).Decode(&spec); err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	rootfs := spec.Root.Path
	if !filepath.IsAbs(rootfs) {
		rootfs = filepath.Join(state.Bundle, rootfs)
	}
	funcs := template.FuncMap{
		"id":         func() string { return state.ID },
		"bundle":     func() string { return state.Bundle },
		"rootfs":     func() string { return rootfs },
		"pid":        func() int { return state.Pid },
		"status":     func() string { return string(state.Status) },
		"annotation": func(key string) string { return state.Annotations[key] },
	}
	return func(in []string) ([]string, error) {
		out := make([]string, len(in))
		for i, text := range in {
			if !strings.Contains(text, "{{") {
				out[i] = text
				continue
			}
			t, err := template.New("").Funcs(funcs).Parse(text)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", text, err)
			}
			var b strings.Builder
			if err := t.Execute(&b, nil); err != nil {
				return nil, fmt.Errorf("%q: %w", text, err)
			}
			out[i] = b.String()
		}
		return out, nil
	}, nil
}
