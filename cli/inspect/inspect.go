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
	"github.com/containerd/platforms"
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

// Object is what an engine says of one object.
type Object struct {
	Raw   json.RawMessage // as it was sent
	Typed any             // the part that this program knows; nil if it has no type for it
}

// Getter fetches the object called name.
type Getter func(ctx context.Context, c client.APIClient, name string) (Object, error)

// Container returns the getter of containers, size with their disk usage.
func Container(size *bool) Getter {
	return func(ctx context.Context, c client.APIClient, name string) (Object, error) {
		r, err := c.ContainerInspect(ctx, name, client.ContainerInspectOptions{Size: *size})
		return Object{r.Raw, r.Container}, err
	}
}

// Image returns the getter of images, of their variant for platform unless that
// is "".
func Image(platform *string) Getter {
	return func(ctx context.Context, c client.APIClient, name string) (Object, error) {
		var raw bytes.Buffer
		opts := []client.ImageInspectOption{client.ImageInspectWithRawResponse(&raw)}
		if *platform != "" {
			p, err := platforms.Parse(*platform)
			if err != nil {
				return Object{}, fmt.Errorf("invalid platform: %w", err)
			}
			opts = append(opts, client.ImageInspectWithPlatform(&p))
		}
		r, err := c.ImageInspect(ctx, name, opts...)
		return Object{raw.Bytes(), r.InspectResponse}, err
	}
}

// Network returns the getter of networks.
func Network(verbose *bool) Getter {
	return func(ctx context.Context, c client.APIClient, name string) (Object, error) {
		r, err := c.NetworkInspect(ctx, name, client.NetworkInspectOptions{Verbose: *verbose})
		return Object{r.Raw, r.Network}, err
	}
}

// Volume gets a volume.
func Volume(ctx context.Context, c client.APIClient, name string) (Object, error) {
	r, err := c.VolumeInspect(ctx, name, client.VolumeInspectOptions{})
	return Object{r.Raw, r.Volume}, err
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
			return Print(s.Out, args, spec, func(name string) (Object, error) { return get(cmd.Context(), c, name) })
		},
	}
	cmd.Flags().StringVarP(&spec, "format", "f", "", "Format output using a custom template")
	return cmd
}

// First tries lookups in order and returns the first object found; kind, when
// not "", is what the user asked for.
func First(ctx context.Context, c client.APIClient, name string, lookups []Lookup, kind string) (Object, error) {
	for _, l := range lookups {
		found, err := l.Get(ctx, c, name)
		if err == nil || !errdefs.IsNotFound(err) && !errdefs.IsNotImplemented(err) {
			return found, err
		}
	}
	if kind == "" {
		kind = "object"
	}
	return Object{}, fmt.Errorf("error: no such %s: %s", kind, name)
}

// Print prints the objects named: as an array, as lines of JSON for the spec
// "json", or each through the template spec. Those that get does not find are
// reported together at the end.
func Print(w io.Writer, names []string, spec string, get func(name string) (Object, error)) error {
	var failed []error
	found := []json.RawMessage{}
	for _, name := range names {
		object, err := get(name)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if spec == "" || spec == "json" {
			found = append(found, object.Raw)
			continue
		}
		if err := execute(w, spec, object); err != nil {
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

// execute prints the object through a template: by its type, which has every
// field even if the engine left it out, else by what the engine sent, which may
// have more.
func execute(w io.Writer, spec string, object Object) error {
	var out bytes.Buffer
	if object.Typed != nil && format.Template(&out, spec, object.Typed) == nil {
		_, err := out.WriteTo(w)
		return err
	}
	out.Reset()
	var v any
	dec := json.NewDecoder(bytes.NewReader(object.Raw))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return err
	}
	if err := format.Template(&out, spec, numbers(v)); err != nil {
		return err
	}
	_, err := out.WriteTo(w)
	return err
}

// numbers makes whole numbers integers, which templates can compare and print.
func numbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = numbers(v[k])
		}
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
	}
	return v
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
