// Package metrics counts what the engine does and shows it in the text format of
// Prometheus. The names and their meaning are Docker's.
//
// Counting costs an addition or two; the text is made when it is asked for.
package metrics

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// contentType is that of the text format.
const contentType = "text/plain; version=0.0.4; charset=utf-8"

// bounds are the upper ends of a Timer's buckets, in seconds.
var bounds = [...]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// Set is the metrics that are shown, in their order. The zero value is empty. Add
// to it before it is served; serving is safe for concurrent use.
type Set struct{ families []family }

// family is a metric with all of its label values.
type family struct {
	name, help, kind string
	write            func(w *bufio.Writer, name string)
}

// ServeHTTP writes the values of the moment.
func (s *Set) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", contentType)
	_ = s.Write(w) // the client is gone
}

// Write writes the values of the moment.
func (s *Set) Write(to io.Writer) error {
	w := bufio.NewWriter(to)
	for _, f := range s.families {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", f.name, strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(f.help), f.name, f.kind)
		f.write(w, f.name)
	}
	return w.Flush()
}

func (s *Set) add(name, help, kind string, write func(*bufio.Writer, string)) {
	s.families = append(s.families, family{name, help, kind, write})
}

// Counter adds a number that only grows.
func (s *Set) Counter(name, help string, value func() float64) {
	s.add(name, help, "counter", func(w *bufio.Writer, name string) { sample(w, name, "", value()) })
}

// Gauge adds a number that goes up and down.
func (s *Set) Gauge(name, help string, value func() float64) {
	s.add(name, help, "gauge", func(w *bufio.Writer, name string) { sample(w, name, "", value()) })
}

// Sample is a value with its labels, as Labels makes them.
type Sample struct {
	Labels string
	Value  float64
}

// Gauges adds numbers that differ by labels.
func (s *Set) Gauges(name, help string, values func() []Sample) {
	s.add(name, help, "gauge", func(w *bufio.Writer, name string) {
		for _, v := range values() {
			sample(w, name, v.Labels, v.Value)
		}
	})
}

// Labels joins pairs of a name and a value.
func Labels(pairs ...string) string {
	var b strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `%s="%s"`, pairs[i], strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`).Replace(pairs[i+1]))
	}
	return b.String()
}

func sample(w *bufio.Writer, name, labels string, value float64) {
	if labels != "" {
		labels = "{" + labels + "}"
	}
	fmt.Fprintf(w, "%s%s %s\n", name, labels, strconv.FormatFloat(value, 'g', -1, 64))
}

// Timer adds a histogram of how long actions took. label names the actions; those
// of known are shown before their first time.
func (s *Set) Timer(name, help, label string, known ...string) *Timer {
	t := &Timer{label: label, actions: map[string]*histogram{}}
	for _, action := range known {
		t.actions[action] = &histogram{}
	}
	s.add(name, help, "histogram", t.write)
	return t
}

// Timer is a histogram for each action. It is safe for concurrent use.
type Timer struct {
	label string // "" for one action without a name

	mu      sync.Mutex // guards actions, not what they point to
	actions map[string]*histogram
}

type histogram struct {
	buckets [len(bounds) + 1]atomic.Uint64 // the last is for what took longer
	nanos   atomic.Int64
}

// Since records an action that began at start and ends now.
func (t *Timer) Since(action string, start time.Time) { t.Took(action, time.Since(start)) }

// Took records how long an action took.
func (t *Timer) Took(action string, d time.Duration) {
	t.mu.Lock()
	h := t.actions[action]
	if h == nil {
		h = &histogram{}
		t.actions[action] = h
	}
	t.mu.Unlock()
	i, _ := slices.BinarySearch(bounds[:], d.Seconds())
	h.buckets[i].Add(1)
	h.nanos.Add(int64(d))
}

func (t *Timer) write(w *bufio.Writer, name string) {
	t.mu.Lock()
	actions := maps.Clone(t.actions)
	t.mu.Unlock()
	for _, action := range slices.Sorted(maps.Keys(actions)) {
		h, own, sum := actions[action], "", uint64(0)
		if t.label != "" {
			own = Labels(t.label, action)
		}
		for i := range h.buckets {
			bound := "+Inf"
			if i < len(bounds) {
				bound = strconv.FormatFloat(bounds[i], 'g', -1, 64)
			}
			sum += h.buckets[i].Load()
			sample(w, name+"_bucket", strings.TrimPrefix(own+","+Labels("le", bound), ","), float64(sum))
		}
		sample(w, name+"_sum", own, time.Duration(h.nanos.Load()).Seconds())
		sample(w, name+"_count", own, float64(sum))
	}
}
