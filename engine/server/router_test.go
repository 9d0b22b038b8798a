package server

import (
	"maps"
	"testing"
)

func TestRouteMatch(t *testing.T) {
	for _, tc := range []struct {
		pattern, path string
		want          map[string]string
		ok            bool
	}{
		{"/info", "/info", nil, true},
		{"/info", "/info/", nil, false},
		{"/containers/{name}/json", "/containers/web/json", map[string]string{"name": "web"}, true},
		{"/containers/{name}/json", "/containers/json", nil, false},
		{"/containers/{name}/json", "/containers//json", nil, false},
		{"/images/{name}/json", "/images/localhost:5000/a/b/json", map[string]string{"name": "localhost:5000/a/b"}, true},
		{"/images/{name}", "/images/a/b:c", map[string]string{"name": "a/b:c"}, true},
		{"/containers/{name}/checkpoints/{checkpoint}", "/containers/a/checkpoints/b", map[string]string{"name": "a", "checkpoint": "b"}, true},
	} {
		rt := newRoute("GET", tc.pattern, nil)
		got, ok := rt.match(tc.path)
		if ok != tc.ok || (ok && !maps.Equal(got, tc.want)) {
			t.Errorf("%s match %s = %v, %v, want %v, %v", tc.pattern, tc.path, got, ok, tc.want, tc.ok)
		}
	}
}

func TestSplitVersion(t *testing.T) {
	for path, want := range map[string][2]string{
		"/v1.41/info":   {"1.41", "/info"},
		"/info":         {"", "/info"},
		"/volumes":      {"", "/volumes"},
		"/v1.41":        {"1.41", ""},
		"/v1.x/info":    {"", "/v1.x/info"},
		"/v/info":       {"", "/v/info"},
		"/version/info": {"", "/version/info"},
	} {
		version, rest := splitVersion(path)
		if version != want[0] || rest != want[1] {
			t.Errorf("splitVersion(%q) = %q, %q, want %q", path, version, rest, want)
		}
	}
}
