package fork

import (
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"lighter/runc/plan"
)

// Tests in this package need no privileges: their plans only compute, write to a
// pipe and exit.

// builderless makes plans by hand: the runner must not depend on what the compiler
// happens to produce.
func num(n uint64) plan.Arg { return plan.Arg{N: n} }

func reg(n uint64) plan.Arg { return plan.Arg{Kind: plan.Register, N: n} }

func exit(code uint64) plan.Step {
	return plan.Step{What: "exit", Nr: unix.SYS_EXIT_GROUP, Args: []plan.Arg{num(code)}}
}

// finish runs p as a private child and returns its last message's error.
func finish(t *testing.T, p *plan.Plan, files map[string]*os.File) error {
	t.Helper()
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	c, err := Start(Request{Plan: p, Files: files, Private: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Next()
	if rerr := c.Reap(); rerr != nil {
		t.Errorf("reap: %v", rerr)
	}
	return err
}

func TestRun_failure(t *testing.T) {
	p := &plan.Plan{Steps: []plan.Step{
		{What: "get pid", Nr: unix.SYS_GETPID},
		{What: "open nothing", Nr: unix.SYS_CLOSE, Args: []plan.Arg{num(1 << 20)}},
	}}
	var step *plan.StepError
	if err := finish(t, p, nil); !errors.As(err, &step) || step.Index != 1 || step.Errno != unix.EBADF {
		t.Errorf("got %v, want step 1: bad file descriptor", err)
	}
}

// Each case ends in Fail with a number that tells which way control went.
func TestRun_control(t *testing.T) {
	fail := func(n uint64) plan.Step { return plan.Step{What: "end", Op: plan.Fail, Args: []plan.Arg{num(n)}} }
	bad := plan.Step{What: "bad close", Nr: unix.SYS_CLOSE, Args: []plan.Arg{num(1 << 20)}}
	with := func(s plan.Step, edit func(*plan.Step)) plan.Step {
		edit(&s)
		return s
	}
	good := plan.Step{What: "get pid", Nr: unix.SYS_GETPID}
	for _, tt := range []struct {
		name  string
		steps []plan.Step
		want  syscall.Errno
	}{
		{"next", []plan.Step{good, fail(1), fail(2)}, 1},
		{"jump after success", []plan.Step{with(good, func(s *plan.Step) { s.OnOK = 1 }), fail(1), fail(2)}, 2},
		{"ignored error", []plan.Step{with(bad, func(s *plan.Step) { s.Ignore = []syscall.Errno{unix.EBADF} }), fail(1), fail(2)}, 1},
		{"jump after ignored error", []plan.Step{with(bad, func(s *plan.Step) { s.Ignore, s.OnIgnored = []syscall.Errno{unix.EBADF}, 1 }), fail(1), fail(2)}, 2},
		{"other error", []plan.Step{with(bad, func(s *plan.Step) { s.Ignore, s.OnIgnored = []syscall.Errno{unix.ENOENT}, 1 }), fail(1), fail(2)}, unix.EBADF},
		{"any error", []plan.Step{with(bad, func(s *plan.Step) { s.IgnoreAll = true }), fail(1), fail(2)}, 1},
		{"jump", []plan.Step{{Op: plan.Jump, OnOK: 1}, fail(1), fail(2)}, 2},
		{"least", []plan.Step{with(good, func(s *plan.Step) { s.Min = 1 << 40 }), fail(1), fail(2)}, unix.ECANCELED},
		{"register", []plan.Step{{Op: plan.Set, Args: []plan.Arg{num(77)}, Save: 1}, {Op: plan.Fail, Args: []plan.Arg{reg(1)}}, exit(0)}, 77},
		{"word", []plan.Step{{Op: plan.Set, Args: []plan.Arg{num(78)}, Store: 1, StoreAt: 4}, {Op: plan.Fail, Args: []plan.Arg{{Kind: plan.Word, Buf: 1, N: 4}}}, exit(0)}, 78},
		{"assert holds", []plan.Step{{Op: plan.Assert, Args: []plan.Arg{num(5), num(5), num(99)}}, fail(1), exit(0)}, 1},
		{"assert fails", []plan.Step{{Op: plan.Assert, Args: []plan.Arg{num(5), num(6), num(99)}}, fail(1), exit(0)}, 99},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &plan.Plan{Steps: tt.steps, Labels: []int{2}, Regs: []string{"r"}, Buffers: []plan.Buffer{{Data: make([]byte, 8)}}}
			var step *plan.StepError
			if err := finish(t, p, nil); !errors.As(err, &step) || step.Errno != tt.want {
				t.Errorf("got %v, want errno %d", err, tt.want)
			}
		})
	}
}

// Strings, references between buffers, descriptor slots and named files arrive.
func TestRun_execve(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	str := func(s string) plan.Buffer { return plan.Buffer{Data: append([]byte(s), 0)} }
	p := &plan.Plan{
		Buffers: []plan.Buffer{
			str("/bin/sh"), str("sh"), str("-c"), str("echo $A; ls /proc/self/fd >/dev/null; exit 0"), str("A=value"),
			{Data: make([]byte, 32), Refs: []plan.Ref{{At: 0, To: 2}, {At: 8, To: 3}, {At: 16, To: 4}}},
			{Data: make([]byte, 16), Refs: []plan.Ref{{At: 0, To: 5}}},
		},
		Steps: []plan.Step{
			{What: "stdout", Nr: unix.SYS_DUP3, Args: []plan.Arg{{Kind: plan.File, Name: "out"}, num(1), num(0)}},
			{What: "close", Op: plan.CloseOthers, Args: []plan.Arg{num(0), {Kind: plan.File, Name: plan.StatusFile}}},
			{What: "exec", Nr: unix.SYS_EXECVE, Args: []plan.Arg{{Kind: plan.Address, Buf: 1}, {Kind: plan.Address, Buf: 6}, {Kind: plan.Address, Buf: 7}}},
		},
	}
	done := make(chan error, 1)
	go func() { done <- finish(t, p, map[string]*os.File{"out": w}) }()
	// An executed program ends the message stream.
	if err := <-done; err != io.EOF {
		t.Errorf("got %v, want EOF", err)
	}
	w.Close()
	raw, err := io.ReadAll(r)
	if err != nil || string(raw) != "value\n" {
		t.Errorf("got %q, error %v", raw, err)
	}
}

// A child has exactly the descriptors that its plan names, whatever else the
// parent has open.
func TestCloseOthers(t *testing.T) {
	var others []*os.File
	for range 20 {
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		others = append(others, f)
	}
	keep := others[10]
	probe := func(fd uintptr) plan.Step {
		return plan.Step{What: "probe", Nr: unix.SYS_FCNTL, Args: []plan.Arg{num(uint64(fd)), num(unix.F_GETFD)}}
	}
	steps := []plan.Step{
		{What: "close", Op: plan.CloseOthers, Args: []plan.Arg{num(0)}},
		{What: "kept", Nr: unix.SYS_FCNTL, Args: []plan.Arg{{Kind: plan.File, Name: "keep"}, num(unix.F_GETFD)}},
	}
	for _, f := range others {
		if f == keep {
			continue
		}
		s := probe(f.Fd())
		s.Ignore, s.OnIgnored = []syscall.Errno{unix.EBADF}, 0
		steps = append(steps, s, plan.Step{What: "is closed", Op: plan.Jump})
	}
	// A probe that succeeds goes to the failing end.
	p := &plan.Plan{Steps: append(steps, exit(0), plan.Step{What: "open", Op: plan.Fail, Args: []plan.Arg{num(1)}}), Labels: []int{len(steps) + 1, 0}}
	for i := range p.Steps {
		if p.Steps[i].What == "probe" {
			p.Steps[i].OnOK = 1
		}
		if p.Steps[i].What == "is closed" {
			p.Labels = append(p.Labels, i+1)
			p.Steps[i].OnOK = plan.Label(len(p.Labels))
		}
	}
	p.Labels[1] = len(steps)
	if err := finish(t, p, map[string]*os.File{"keep": keep}); err != io.EOF {
		t.Errorf("got %v, want EOF", err)
	}
}

// Many goroutines fork while others allocate and collect: the children's memory is
// what it was at the fork.
func TestStart_concurrent(t *testing.T) {
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			var keep [][]byte
			for {
				select {
				case <-stop:
					return
				default:
					keep = append(keep, []byte(strings.Repeat("x", 1<<12)))
					if len(keep) > 256 {
						keep = nil
					}
				}
			}
		})
	}
	var forks sync.WaitGroup
	for i := range 4 {
		forks.Go(func() {
			for j := range 25 {
				want := uint64(1 + (i*25+j)%100)
				p := &plan.Plan{Regs: []string{"r"}, Steps: []plan.Step{
					{What: "set", Op: plan.Set, Args: []plan.Arg{num(want)}, Save: 1},
					{What: "fail", Op: plan.Fail, Args: []plan.Arg{reg(1)}},
				}}
				var step *plan.StepError
				if err := finish(t, p, nil); !errors.As(err, &step) || uint64(step.Errno) != want {
					t.Errorf("got %v, want errno %d", err, want)
				}
			}
		})
	}
	forks.Wait()
	close(stop)
	wg.Wait()
}

// A parent that goes away ends a child that waits for it.
func TestChild_abandoned(t *testing.T) {
	p, err := plan.Parked()
	if err != nil {
		t.Fatal(err)
	}
	c, err := Start(Request{Plan: p, Private: true})
	if err != nil {
		t.Fatal(err)
	}
	fd := c.PIDFD()
	c.sync.Close()
	c.sync = nil
	var step *plan.StepError
	if _, err := c.Next(); !errors.As(err, &step) || step.Errno != unix.ECANCELED {
		t.Errorf("got %v, want ECANCELED", err)
	}
	if err := c.Reap(); err != nil {
		t.Error(err)
	}
	_ = fd
	c.Close()
}

func TestStart_missingFile(t *testing.T) {
	p := &plan.Plan{Steps: []plan.Step{{What: "x", Nr: unix.SYS_CLOSE, Args: []plan.Arg{{Kind: plan.File, Name: "nope"}}}}}
	if _, err := Start(Request{Plan: p}); err == nil || !strings.Contains(err.Error(), "nope") {
		t.Errorf("got %v, want an error that names the file", err)
	}
}

func BenchmarkStart(b *testing.B) {
	p := &plan.Plan{Steps: []plan.Step{exit(0)}}
	for b.Loop() {
		c, err := Start(Request{Plan: p, Private: true})
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Reap(); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
