// Package inspect prints what the engine says of objects: docker inspect and
// its relatives of each noun.
package inspect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/format"
	"lighter/cli/session"
)

// Lookup fetches the raw JSON of an object of one kind.
type Lookup struct {
	Kind string
	Get  Getter
}

// Getter fetches the raw JSON of the object called name.
type Getter func(ctx context.Context, c client.APIClient, name string) (json.RawMessage, error)

// Container returns the getter of containers, size with their disk usage.
func Container(size *bool) Getter {
	return func(ctx context.Context, c client.APIClient, name string) (json.RawMessage, error) {
		r, err := c.ContainerInspect(ctx, name, client.ContainerInspectOptions{Size: *size})
		return r.Raw, err
	}
}

// Image gets an image.
func Image(ctx context.Context, c client.APIClient, name string) (json.RawMessage, error) {
	var raw bytes.Buffer
	_, err := c.ImageInspect(ctx, name, client.ImageInspectWithRawResponse(&raw))
	return raw.Bytes(), err
}

// Network returns the getter of networks.
func Network(verbose *bool) Getter {
	return func(ctx context.Context, c client.APIClient, name string) (json.RawMessage, error) {
		r, err := c.NetworkInspect(ctx, name, client.NetworkInspectOptions{Verbose: *verbose})
		return r.Raw, err
	}
}

// Volume gets a volume.
func Volume(ctx context.Context, c client.APIClient, name string) (json.RawMessage, error) {
	r, err := c.VolumeInspect(ctx, name, client.VolumeInspectOptions{})
	return r.Raw, err
}

// Command returns the inspect verb of one noun; arg stands for a name in the
// usage line.
func Command(s *session.Session, arg, short string, get Getter) *cobra.Command {
	var spec string
	cmd := &cobra.Command{
		Use: fmt.Sprintf("inspect [OPTIONS] %s [%s...]", arg, arg), Short: short, Args: session.AtLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			return Print(s.Out, args, spec, func(name string) (json.RawMessage, error) { return get(cmd.Context(), c, name) })
		},
	}
	cmd.Flags().StringVarP(&spec, "format", "f", "", "Format output using a custom template")
	return cmd
}

// First tries lookups in order and returns the first object found; kind, when
// not "", is what the user asked for.
func First(ctx context.Context, c client.APIClient, name string, lookups []Lookup, kind string) (json.RawMessage, error) {
	for _, l := range lookups {
		raw, err := l.Get(ctx, c, name)
		if err == nil || !errdefs.IsNotFound(err) && !errdefs.IsNotImplemented(err) {
			return raw, err
		}
	}
	if kind == "" {
		kind = "object"
	}
	return nil, fmt.Errorf("error: no such %s: %s", kind, name)
}

// Print prints the objects named: as an array, as lines of JSON for the spec
// "json", or each through the template spec. Those that get does not find are
// reported together at the end.
func Print(w io.Writer, names []string, spec string, get func(name string) (json.RawMessage, error)) error {
	var failed []error
	found := []json.RawMessage{}
	for _, name := range names {
		raw, err := get(name)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if spec == "" || spec == "json" {
			found = append(found, raw)
			continue
		}
		// Through a map: templates then reach every field that the engine
		// sent, also those that this program does not know.
		var v any
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		if err := dec.Decode(&v); err != nil {
			return err
		}
		if err := format.Template(w, spec, v); err != nil {
			failed = append(failed, err)
		}
	}
	switch spec {
	case "json":
		for _, raw := range found {
			fmt.Fprintln(w, string(bytes.TrimSpace(raw)))
		}
	case "":
		if err := array(w, found); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}

func array(w io.Writer, found []json.RawMessage) error {
	var b, out bytes.Buffer
	b.WriteByte('[')
	for i, raw := range found {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(raw)
	}
	b.WriteByte(']')
	if err := json.Indent(&out, b.Bytes(), "", "    "); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, out.String())
	return err
}
