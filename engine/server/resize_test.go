package server

import (
	"errors"
	"strconv"
	"testing"
)

func TestParseSize(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want uint32
		err  error
	}{
		{"0", 0, nil},
		{"40", 40, nil},
		{"4294967295", 4294967295, nil},
		{"4294967296", 0, strconv.ErrRange},
		{"99999999999999999999", 0, strconv.ErrRange},
		{"-100", 0, strconv.ErrRange},
		{"", 0, strconv.ErrSyntax},
		{"wide", 0, strconv.ErrSyntax},
	} {
		got, err := parseSize(tt.in)
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("parseSize(%q) = %d, %v; want %d, %v", tt.in, got, err, tt.want, tt.err)
		}
	}
}
