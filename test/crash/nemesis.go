package crash

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"lighter/test/harness"
)

// Point is one fault at one call of one verb.
type Point struct {
	Verb  string
	Fault Fault
	// Again is the number of the call of dockerd's start at which it is killed a
	// second time; 0 for not.
	Again int
}

func (p Point) String() string {
	s := p.Verb + "/" + p.Fault.String()
	if p.Again > 0 {
		s += "+" + strconv.Itoa(p.Again)
	}
	return s
}

// external reports whether the point needs a containerd of its own.
func (p Point) external() bool { return p.Fault.Role == roleContainerd }

// ParsePoint reads what String writes.
func ParsePoint(s string) (Point, error) {
	bad := fmt.Errorf("parse point %q: want verb/action:role:number", s)
	name, fault, ok := strings.Cut(s, "/")
	parts := strings.Split(fault, ":")
	if !ok || len(parts) != 3 {
		return Point{}, bad
	}
	p := Point{Verb: name, Fault: Fault{Action: Action(parts[0]), Role: parts[1]}}
	first, second, double := strings.Cut(parts[2], "+")
	var err error
	if p.Fault.N, err = strconv.Atoi(first); err != nil {
		return Point{}, bad
	}
	if double {
		if p.Again, err = strconv.Atoi(second); err != nil {
			return Point{}, bad
		}
	}
	return p, nil
}

func (w *world) verb(name string) verb {
	for _, v := range w.verbs {
		if v.name == name {
			return v
		}
	}
	w.t.Fatalf("no verb %q", name)
	return verb{}
}

// profile runs a verb without a fault and returns its calls.
func (w *world) profile(v verb) ([]Call, entry) {
	var calls []Call
	e := w.run(Point{Verb: v.name, Fault: Fault{Action: Observe}}, &calls)
	return calls, e
}

// run commits the fault of p and checks everything. It returns what it did and
// what was wrong, and into trace the calls that were seen.
func (w *world) run(p Point, trace *[]Call) entry {
	v := w.verb(p.Verb)
	e := entry{Point: p.String(), Start: time.Now()}
	wrong := func(format string, args ...any) { e.Problems = append(e.Problems, fmt.Sprintf(format, args...)) }
	for _, args := range v.setup {
		if r := w.d.Docker(args...); r.Code != 0 {
			wrong("set up: docker %q: %d %s", args, r.Code, r.Stderr)
			return e
		}
	}
	w.sup.forget()
	fired := w.sup.Arm(p.Fault)
	called := time.Now()
	r := w.d.Docker(v.args...)
	e.Took, e.Code, e.Output = time.Since(called), r.Code, harness.Tail(r.Stdout+r.Stderr, 300)
	calls := w.sup.Disarm()
	if trace != nil {
		*trace = calls
	}
	e.Fired, e.Acked = ended(fired), r.Code == v.code
	if r.Code == -1 {
		wrong("docker %q hangs", v.args)
	}
	killed := e.Fired && (p.Fault.Action == Kill || p.Fault.Action == KillAll)
	if e.Fired {
		e.Call = calls[len(calls)-1].String()
		for _, c := range calls {
			if c.Role == p.Fault.Role && c.N == p.Fault.N {
				e.Call = c.String()
			}
		}
	}
	w.await(p, killed, wrong)
	w.recover(p, killed, wrong, &e)
	if len(e.Problems) > 0 {
		return e
	}
	w.check(p, v, killed, wrong, e)
	return e
}

// await waits for the end of the daemon that was killed.
func (w *world) await(p Point, killed bool, wrong func(string, ...any)) {
	var done []<-chan struct{}
	switch {
	case !killed:
	case p.Fault.Action == KillAll:
		done = append(done, w.d.Dockerd(), w.d.Containerd())
	case p.Fault.Role == roleDockerd:
		done = append(done, w.d.Dockerd())
	case p.Fault.Role == roleContainerd:
		done = append(done, w.d.Containerd())
	}
	for _, d := range done {
		if d == nil {
			continue
		}
		select {
		case <-d:
		case <-time.After(settleTimeout):
			wrong("a daemon lives on after SIGKILL")
		}
	}
	if len(done) == 0 && (ended(w.d.Dockerd()) || ended(w.d.Containerd())) {
		wrong("a daemon ended that nobody killed")
	}
}

// recover starts what was killed, for a double fault twice.
func (w *world) recover(p Point, killed bool, wrong func(string, ...any), e *entry) {
	down := ended(w.d.Dockerd()) || ended(w.d.Containerd())
	if p.Again > 0 && killed && ended(w.d.Dockerd()) {
		fired := w.sup.Arm(Fault{Action: Kill, Role: roleDockerd, N: p.Again})
		if s := eventuallyEither(w, fired); s != "" {
			wrong("%s", s)
		}
		w.sup.Disarm()
	}
	if !down {
		return
	}
	if s := w.restart(); s != "" {
		wrong("%s", s)
		return
	}
	e.Recovery = w.recovery
}

// eventuallyEither starts dockerd and waits until it answers, or is killed.
func eventuallyEither(w *world, fired <-chan struct{}) string {
	w.d.LaunchDockerd()
	return eventually(recoveryTimeout, func() string {
		if ended(fired) {
			<-w.d.Dockerd()
			return ""
		}
		if err := w.get("/_ping", nil); err != nil && !ended(w.d.Dockerd()) {
			return "no answer during a double fault: " + err.Error()
		}
		return ""
	})
}

// check compares what is there with what was promised.
func (w *world) check(p Point, v verb, killed bool, wrong func(string, ...any), e entry) {
	// Who kills a container's shim or its runtime ends the container.
	harmed := v.runs != "" && killed && (p.Fault.Action == KillAll || p.Fault.Role == roleShim || p.Fault.Role == roleRuntime || p.Fault.Role == roleLaunch)
	var o objects
	holds := false
	s := eventually(settleTimeout, func() string {
		var err error
		if o, err = w.look(); err != nil {
			return err.Error()
		}
		if s := w.bystanders(o); s != "" {
			return s
		}
		after := v.after(o)
		if holds = after == ""; holds {
			return ""
		}
		if harmed && container(v.runs, "exited", "created")(o) == "" {
			return ""
		}
		if e.Acked && !v.lenient {
			return "acknowledged, but " + after
		}
		before := v.before(o)
		if before == "" || v.between != nil && v.between(o) == "" {
			return ""
		}
		return fmt.Sprintf("half done: not as before: %s; not as after: %s", before, after)
	})
	if s != "" {
		wrong("%s", s)
	}
	if p.Fault.Action == Observe || p.Fault.Action == Hang {
		if !e.Acked {
			wrong("docker %q: exit code %d, want %d: %s", v.args, e.Code, v.code, e.Output)
		}
	}
	if holds && !harmed && (e.Acked || v.before(o) != "") {
		for _, args := range v.verify {
			if r := w.d.Docker(args...); r.Code != 0 {
				wrong("verify: docker %q: %d %s", args, r.Code, r.Stderr)
			}
		}
	}
	if r := w.d.Docker("run", "--rm", "busybox", "true"); r.Code != 0 {
		wrong("run after the recovery: %d %s", r.Code, r.Stderr)
	}
	var err error
	if o, err = w.look(); err != nil {
		wrong("%v", err)
	}
	for _, s := range w.clean(o, v.resumes && !e.Acked) {
		wrong("%s", s)
	}
	if s := w.screams(); s != "" {
		wrong("%s", s)
	}
}
