package label

import (
	"slices"
	"testing"
)

func TestMatch(t *testing.T) {
	labels := map[string]string{"a": "1", "empty": "", "eq": "x=y"}
	for _, c := range []struct {
		terms []string
		want  bool
	}{
		{nil, true},
		{[]string{"a"}, true},
		{[]string{"a=1"}, true},
		{[]string{"a=2"}, false},
		{[]string{"a="}, false},
		{[]string{"empty="}, true},
		{[]string{"eq=x=y"}, true},
		{[]string{"none"}, false},
		{[]string{"none="}, false},
		{[]string{"a", "none"}, false},
		{[]string{""}, false},
	} {
		if got := Match(labels, slices.Values(c.terms)); got != c.want {
			t.Errorf("Match(%q) = %v", c.terms, got)
		}
	}
}
