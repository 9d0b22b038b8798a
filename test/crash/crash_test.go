package crash

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

var (
	flagN       = flag.Int("crash.n", 0, "commit that many `faults`; 0 for the everyday tier")
	flagSeed    = flag.Uint64("crash.seed", 1, "the `seed` that chooses them")
	flagPoint   = flag.String("crash.point", "", "run only these `points`, separated by commas")
	flagVerb    = flag.String("crash.verb", "", "only points of this `verb`")
	flagHistory = flag.String("crash.history", "", "append the history to this `file`")
	flagList    = flag.Bool("crash.list", false, "list the calls of each verb and stop")
)

func TestMain(m *testing.M) {
	Launch()
	flag.Parse()
	harness.Main(m)
}

// everyday is how many faults are committed in make test.
const everyday = 100

// TestKillPoints commits faults at enumerated system calls.
func TestKillPoints(t *testing.T) {
	testenv.Need(t, testenv.Root)
	path := *flagHistory
	if path == "" {
		path = filepath.Join(t.TempDir(), "history")
	}
	h := openHistory(t, path)
	lab := &lab{t: t, history: h}
	if *flagPoint != "" {
		for name := range strings.SplitSeq(*flagPoint, ",") {
			p, err := ParsePoint(name)
			if err != nil {
				t.Fatal(err)
			}
			lab.points = append(lab.points, p)
		}
	} else {
		lab.enumerate()
	}
	for _, external := range []bool{false, true} {
		var points []Point
		for _, p := range lab.points {
			if p.external() == external {
				points = append(points, p)
			}
		}
		lab.runAll(external, points)
	}
	t.Log(h.summary(*flagSeed))
	if n := *flagN; n == 0 && *flagPoint == "" && *flagVerb == "" && !*flagList && len(h.entries) < everyday {
		t.Errorf("%d points, want %d", len(h.entries), everyday)
	}
}

// lab is one run.
type lab struct {
	t       *testing.T
	history *history
	points  []Point
}

// runAll runs the points in worlds: a new one after each failure.
func (l *lab) runAll(external bool, points []Point) {
	for number := 1; len(points) > 0; number++ {
		l.t.Run(fmt.Sprintf("%s-%d", mode(external), number), func(t *testing.T) {
			w := newWorld(t, external)
			for len(points) > 0 {
				p := points[0]
				points = points[1:]
				e := w.run(p, nil)
				l.history.add(t, e)
				if len(e.Problems) > 0 {
					t.Errorf("%s\n  at %s\n  client: %d %s\n  %s", p, e.Call, e.Code, e.Output, strings.Join(e.Problems, "\n  "))
					return
				}
				if w.verb(p.Verb).resumes && !e.Acked {
					break // what was stored is kept for the next time, and in the way of the audit
				}
			}
			if s := w.sequence(); s != "" {
				t.Error(s)
			}
		})
	}
}

func mode(external bool) string {
	if external {
		return "external"
	}
	return "embedded"
}

// enumerate runs every verb once without a fault, and chooses among all points.
func (l *lab) enumerate() {
	t := l.t
	var all []Point
	for _, external := range []bool{false, true} {
		if external && *flagN == 0 {
			continue
		}
		t.Run("enumerate-"+mode(external), func(t *testing.T) {
			w := newWorld(t, external)
			for _, v := range w.verbs {
				if *flagVerb != "" && *flagVerb != v.name {
					continue
				}
				start := time.Now()
				calls, e := w.profile(v)
				if len(e.Problems) > 0 {
					t.Fatalf("%s without a fault: %s\n%s", v.name, strings.Join(e.Problems, "\n"), e.Output)
				}
				t.Logf("%s: %d calls, %v in all, %v the call", v.name, len(calls), time.Since(start).Round(time.Millisecond), e.Took.Round(time.Millisecond))
				if *flagList {
					for _, c := range calls {
						t.Log(c)
					}
				}
				all = append(all, w.pointsOf(v, calls)...)
			}
		})
	}
	if *flagList {
		return
	}
	l.points = choose(all, *flagN, *flagSeed)
	t.Logf("%d points, %d chosen", len(all), len(l.points))
}

// pointsOf are all faults for a verb's calls.
func (w *world) pointsOf(v verb, calls []Call) []Point {
	var points []Point
	disk := map[string]int{}
	for _, c := range calls {
		external := w.d.External
		if external != (c.Role == roleContainerd) {
			continue
		}
		add := func(a Action, n, again int) { points = append(points, Point{v.name, Fault{a, c.Role, n}, again}) }
		add(Kill, c.N, 0)
		if c.Role == roleDockerd || c.Role == roleShim {
			add(KillAll, c.N, 0)
		}
		if c.Role == roleDockerd {
			add(Kill, c.N, 1+(c.N*7)%max(w.startup, 1))
		}
		if c.N%4 == 0 {
			add(Hang, c.N, 0)
		}
		if c.Disk {
			disk[c.Role]++
			add(NoSpace, disk[c.Role], 0)
			add(IOError, disk[c.Role], 0)
		}
	}
	return points
}

// choose takes n points: the verbs in turn, in an order that the seed gives.
func choose(all []Point, n int, seed uint64) []Point {
	if n == 0 {
		n = everyday
		all = slices.DeleteFunc(all, func(p Point) bool { return p.Fault.Action != Kill || p.Again > 0 })
	}
	r := rand.New(rand.NewPCG(seed, 0))
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	byVerb := map[string][]Point{}
	var names []string
	for _, p := range all {
		if byVerb[p.Verb] == nil {
			names = append(names, p.Verb)
		}
		byVerb[p.Verb] = append(byVerb[p.Verb], p)
	}
	slices.Sort(names)
	var chosen []Point
	for len(chosen) < n {
		before := len(chosen)
		for _, name := range names {
			if len(byVerb[name]) > 0 && len(chosen) < n {
				chosen = append(chosen, byVerb[name][0])
				byVerb[name] = byVerb[name][1:]
			}
		}
		if len(chosen) == before {
			break
		}
	}
	return chosen
}
