package shim

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
)

// The drawing in the comment is the table, and the table is what next does.
func TestStatusMachine(t *testing.T) {
	src, err := os.ReadFile("state.go")
	if err != nil {
		t.Fatal(err)
	}
	var drawn []string
	for _, m := range regexp.MustCompile(`(?m)(\w+) +--(\w+)-*> (\w+)`).FindAllStringSubmatch(string(src), -1) {
		drawn = append(drawn, fmt.Sprint(m[1], " ", m[2], " ", m[3]))
	}
	// Chains on one line: "a --x--> b --y--> c".
	for _, m := range regexp.MustCompile(`--\w+-*> (\w+) +--(\w+)-*> (\w+)`).FindAllStringSubmatch(string(src), -1) {
		drawn = append(drawn, fmt.Sprint(m[1], " ", m[2], " ", m[3]))
	}
	var table []string
	for from := Created; from <= Deleted; from++ {
		for ev := event(0); ev < numEvents; ev++ {
			to, err := from.next(ev)
			if err == nil {
				table = append(table, fmt.Sprint(from, " ", ev, " ", to))
			} else if to != from || !errors.Is(err, errdefs.ErrFailedPrecondition) {
				t.Errorf("%s of %s: %s, %v", ev, from, to, err)
			}
		}
	}
	slices.Sort(drawn)
	slices.Sort(table)
	if !slices.Equal(slices.Compact(drawn), table) {
		t.Errorf("drawn\n%q\ntable\n%q", drawn, table)
	}
}
