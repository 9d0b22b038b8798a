package metadata

import (
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
)

// checkLabels refuses labels that are too long.
func checkLabels(m map[string]string) error {
	for k, v := range m {
		if err := labels.Validate(k, v); err != nil {
			return err
		}
	}
	return nil
}

// compact drops labels with an empty value: setting a label to "" removes it,
// which is how a field mask says so.
func compact(m map[string]string) map[string]string {
	var out map[string]string
	for k, v := range m {
		if v == "" {
			continue
		}
		if out == nil {
			out = make(map[string]string, len(m))
		}
		out[k] = v
	}
	return out
}

// maskMap applies the field path to dst if it is field or field.<key>, with the
// value of src.
func maskMap(dst *map[string]string, src map[string]string, field, path string) bool {
	if path == field {
		*dst = src
		return true
	}
	key, ok := strings.CutPrefix(path, field+".")
	if !ok {
		return false
	}
	next := make(map[string]string, len(*dst)+1)
	for k, v := range *dst {
		next[k] = v
	}
	next[key] = src[key]
	*dst = next
	return true
}

func parseFilters(fs []string) (filters.Filter, error) {
	f, err := filters.ParseAll(fs...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return f, nil
}

// fields is a filters.Adaptor over a fixed set of fields and maps.
type fields struct {
	values map[string]string            // "name" or "target.digest"; "" means absent
	maps   map[string]map[string]string // "labels"
}

func (f fields) Field(path []string) (string, bool) {
	if len(path) == 0 {
		return "", false
	}
	if m, ok := f.maps[path[0]]; ok {
		v, ok := m[strings.Join(path[1:], ".")]
		return v, ok
	}
	v := f.values[strings.Join(path, ".")]
	return v, v != ""
}
