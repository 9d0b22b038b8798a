// Package label matches the labels of objects with what a user asks for.
package label

import (
	"iter"
	"strings"
)

// Match reports whether labels has all terms, each a key or key=value.
func Match(labels map[string]string, terms iter.Seq[string]) bool {
	for term := range terms {
		key, value, withValue := strings.Cut(term, "=")
		got, ok := labels[key]
		if !ok || withValue && got != value {
			return false
		}
	}
	return true
}
