package driver

import (
	"encoding/json"
	"strings"
	"unicode"
)

func jsonText(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

func title(s string) string {
	start := true
	return strings.Map(func(r rune) rune {
		if start {
			r = unicode.ToTitle(r)
		}
		start = unicode.IsSpace(r)
		return r
	}, s)
}

func padText(s string, before, after int) string {
	if s == "" {
		return s
	}
	const most = 1024
	return strings.Repeat(" ", min(max(before, 0), most)) + s + strings.Repeat(" ", min(max(after, 0), most))
}

func truncate(s string, n int) string {
	if n < 0 || len(s) <= n {
		return s
	}
	return s[:n]
}
