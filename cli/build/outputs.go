package build

import (
	"encoding/csv"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/client"
	bkbuild "github.com/moby/buildkit/cmd/buildctl/build"
)

// exporterMoby is the engine's own image store.
const exporterMoby = "moby"

// exports are where the result goes: the engine's image store unless said
// otherwise. stored says that the result has an image ID there.
func (o *options) exports(names []string) (list []client.ExportEntry, stored bool, err error) {
	texts := slices.Clone(o.outputs)
	if o.load {
		texts = append(texts, "type=docker")
	}
	if o.push {
		texts = append(texts, "type=registry")
	}
	if len(texts) == 0 {
		texts = []string{"type=" + exporterMoby}
	}
	for _, text := range texts {
		e, err := parseOutput(text)
		if err != nil {
			return nil, false, err
		}
		switch e.Type {
		case "cacheonly":
			continue
		case client.ExporterImage, exporterMoby:
			stored = true
			if len(names) > 0 && e.Attrs["name"] == "" {
				e.Attrs["name"] = strings.Join(names, ",")
			}
			if e.Attrs["push"] == "true" && e.Attrs["name"] == "" {
				return nil, false, errors.New("tag is needed when pushing to registry")
			}
		case client.ExporterOCI, client.ExporterDocker:
			if len(names) > 0 && e.Attrs["name"] == "" {
				e.Attrs["name"] = strings.Join(names, ",")
			}
		}
		for _, a := range o.annotations {
			key, value, ok := strings.Cut(a, "=")
			if !ok {
				return nil, false, fmt.Errorf("invalid annotation %q, expected key=value", a)
			}
			if kind, rest, ok := strings.Cut(key, ":"); ok {
				key = "annotation-" + kind + "." + rest
			} else {
				key = "annotation." + key
			}
			e.Attrs[key] = value
		}
		list = append(list, e)
	}
	return list, stored, nil
}

// parseOutput reads one --output; a path alone is a directory, "-" a tar on the
// standard output.
func parseOutput(text string) (client.ExportEntry, error) {
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return client.ExportEntry{}, fmt.Errorf("invalid output %q: %w", text, err)
	}
	if len(fields) == 1 && !strings.Contains(fields[0], "=") {
		if text == "-" {
			text = "type=tar,dest=-"
		} else {
			text = "type=local,dest=" + text
		}
		fields = strings.SplitN(text, ",", 2)
	}
	attrs := map[string]string{}
	for _, f := range fields {
		key, value, ok := strings.Cut(f, "=")
		if !ok {
			return client.ExportEntry{}, fmt.Errorf("invalid value %s", f)
		}
		attrs[strings.ToLower(strings.TrimSpace(key))] = value
	}
	kind := attrs["type"]
	switch {
	case kind == "":
		return client.ExportEntry{}, errors.New("type is required for output")
	case kind == "registry":
		attrs["push"] = "true"
		kind = client.ExporterImage
	case kind == client.ExporterDocker && attrs["dest"] == "":
		kind = exporterMoby
	case kind == client.ExporterImage, kind == exporterMoby, kind == "cacheonly":
	default:
		list, err := bkbuild.ParseOutput([]string{text})
		if err != nil {
			return client.ExportEntry{}, err
		}
		if list[0].Attrs == nil {
			list[0].Attrs = map[string]string{}
		}
		return list[0], nil
	}
	delete(attrs, "type")
	return client.ExportEntry{Type: kind, Attrs: attrs}, nil
}

// cacheEntries reads --cache-from or --cache-to; a word alone is a reference in a
// registry.
func cacheEntries(texts []string, parse func([]string) ([]client.CacheOptionsEntry, error)) ([]client.CacheOptionsEntry, error) {
	var full []string
	for _, t := range texts {
		if !strings.Contains(t, "=") {
			t = "type=registry,ref=" + t
		}
		full = append(full, t)
	}
	if len(full) == 0 {
		return nil, nil
	}
	return parse(full)
}
