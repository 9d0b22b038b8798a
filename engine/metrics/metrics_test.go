package metrics

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestText(t *testing.T) {
	var s Set
	s.Counter("a_total", "Line\none.", func() float64 { return 3 })
	s.Gauges("b", "B.", func() []Sample { return []Sample{{Labels("x", `q"\`, "y", "2"), 1}, {"", 0.5}} })
	timer := s.Timer("c_seconds", "C.", "action", "idle")
	timer.Took("go", 5*time.Millisecond) // a bound belongs to its bucket
	timer.Took("go", 20*time.Second)
	start := s.Timer("d_seconds", "D.", "")
	start.Took("", 30*time.Millisecond)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	got := w.Body.String()
	for _, want := range []string{
		"# HELP a_total Line\\none.\n# TYPE a_total counter\na_total 3\n",
		"b{x=\"q\\\"\\\\\",y=\"2\"} 1\nb 0.5\n",
		"# TYPE c_seconds histogram\nc_seconds_bucket{action=\"go\",le=\"0.005\"} 1\n",
		"c_seconds_bucket{action=\"go\",le=\"10\"} 1\nc_seconds_bucket{action=\"go\",le=\"+Inf\"} 2\nc_seconds_sum{action=\"go\"} 20.005\nc_seconds_count{action=\"go\"} 2\n",
		"c_seconds_count{action=\"idle\"} 0\n",
		"d_seconds_bucket{le=\"0.025\"} 0\nd_seconds_bucket{le=\"0.05\"} 1\n",
		"d_seconds_sum 0.03\nd_seconds_count 1\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if ct := w.Header().Get("Content-Type"); !strings.HasPrefix(ct, "text/plain; version=0.0.4") {
		t.Errorf("content type %q", ct)
	}
}

// TestProcess: the values are the kernel's, in the right unit.
func TestProcess(t *testing.T) {
	var s Set
	s.Process()
	var out strings.Builder
	if err := s.Write(&out); err != nil {
		t.Fatal(err)
	}
	if age := float64(time.Now().Unix()) - processStart(); age < -2 || age > 24*3600 {
		t.Errorf("the process began %v s ago", age)
	}
	if rss := statm(1); rss < 100 || rss > statm(0) {
		t.Errorf("%v of %v pages are resident", rss, statm(0))
	}
	if !strings.Contains(out.String(), "go_info{version=\"go1.") {
		t.Errorf("no go_info in\n%s", &out)
	}
}
