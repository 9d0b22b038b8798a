package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"lighter/cli/session"
)

// The evidence that why looks at.
const (
	whyLogLines  = "5"
	whyLogBytes  = 64 << 10
	whyEventSpan = 2 * time.Minute // before the end, in the engine's history of events
)

func newWhyCommand(s *session.Session) *cobra.Command {
	return eachSilently(s, "why CONTAINER [CONTAINER...]", "Explain why containers ended, failed or are unhealthy",
		func(ctx context.Context, c client.APIClient, name string) error {
			res, err := c.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
			if err != nil {
				return err
			}
			f := facts{c: res.Container, now: time.Now()}
			if f.c.State == nil || f.c.Config == nil || f.c.HostConfig == nil {
				return errors.New("the engine does not tell the container's state")
			}
			f.events = pastEvents(ctx, c, f.c)
			f.output = lastOutput(ctx, c, f.c)
			fmt.Fprint(s.Out, f.explain())
			return nil
		})
}

// eachSilently is eachCommand for verbs that print more than the name.
func eachSilently(s *session.Session, use, short string, do func(context.Context, client.APIClient, string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: session.AtLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			var errs []error
			for _, name := range args {
				errs = append(errs, do(cmd.Context(), c, name))
			}
			return errors.Join(errs...)
		},
	}
}

// pastEvents returns what the engine remembers of the end of the last run. That
// it remembers nothing is no error: its history is short.
func pastEvents(ctx context.Context, c client.APIClient, ctr container.InspectResponse) []events.Message {
	ended, err := time.Parse(time.RFC3339Nano, ctr.State.FinishedAt)
	if err != nil || ended.IsZero() || ctr.State.Running && !ctr.State.Restarting {
		ended = time.Now()
	}
	res := c.Events(ctx, client.EventsListOptions{
		Since:   stamp(ended.Add(-whyEventSpan)),
		Until:   stamp(time.Now()),
		Filters: make(client.Filters).Add("container", ctr.ID),
	})
	var all []events.Message
	for {
		select {
		case m := <-res.Messages:
			all = append(all, m)
		case <-res.Err: // io.EOF at the end
			return all
		}
	}
}

// stamp writes a time as the events' filters take it.
func stamp(t time.Time) string { return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()) }

// lastOutput returns the last lines that the container wrote, "" when they can't
// be read.
func lastOutput(ctx context.Context, c client.APIClient, ctr container.InspectResponse) string {
	logs, err := c.ContainerLogs(ctx, ctr.ID, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Tail: whyLogLines})
	if err != nil {
		return ""
	}
	defer logs.Close()
	var out bytes.Buffer
	if bounded := io.LimitReader(logs, whyLogBytes); ctr.Config.Tty {
		out.ReadFrom(bounded)
	} else {
		stdcopy.StdCopy(&out, &out, bounded)
	}
	return out.String()
}

// facts are what is known of a container.
type facts struct {
	c      container.InspectResponse
	events []events.Message
	output string
	now    time.Time
}

// finding is an explanation: what happened, what shows it, and what to do.
type finding struct {
	what     string
	evidence []string
	remedy   string
}

// explain returns the text for a user.
func (f facts) explain() string {
	d := f.find()
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", strings.TrimPrefix(f.c.Name, "/"), d.what)
	for _, e := range d.evidence {
		fmt.Fprintf(&b, "  evidence: %s\n", e)
	}
	if f.c.RestartCount > 0 {
		fmt.Fprintf(&b, "  restarts: %d by its policy %q\n", f.c.RestartCount, policyText(f.c.HostConfig.RestartPolicy))
	}
	if lines := strings.TrimRight(f.output, "\r\n"); lines != "" && !f.neverRan() {
		b.WriteString("  last output:\n")
		for line := range strings.Lines(lines) {
			fmt.Fprintf(&b, "    | %s\n", printable(strings.TrimRight(line, "\r\n")))
		}
	}
	if d.remedy != "" {
		fmt.Fprintf(&b, "  what to do: %s\n", d.remedy)
	}
	return b.String()
}

// printable takes out what would change the terminal: the container wrote it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

func policyText(p container.RestartPolicy) string {
	if p.MaximumRetryCount > 0 {
		return fmt.Sprintf("%s:%d", p.Name, p.MaximumRetryCount)
	}
	return string(p.Name)
}

func (f facts) neverRan() bool {
	started, err := time.Parse(time.RFC3339Nano, f.c.State.StartedAt)
	return err != nil || started.IsZero()
}

// find decides what there is to explain. The order is that of certainty: what the
// engine recorded before what an exit code suggests.
func (f facts) find() finding {
	s := f.c.State
	switch {
	case s.Error != "" && !s.Running:
		return f.failedStart()
	case s.Status == container.StateCreated:
		return finding{what: "has never been started", remedy: "docker start " + strings.TrimPrefix(f.c.Name, "/")}
	case s.Running && !s.Restarting:
		return f.running()
	case s.OOMKilled:
		return f.outOfMemory()
	}
	return f.exited()
}

func (f facts) failedStart() finding {
	s := f.c.State
	d := finding{what: "could not be started", evidence: []string{"the engine recorded: " + s.Error, fmt.Sprintf("exit code %d", s.ExitCode)}}
	switch s.ExitCode {
	case codeNotFound:
		d.what += fmt.Sprintf(": its program %q, or what it needs to run, does not exist in the image", f.c.Path)
		d.remedy = "check the command and the image's PATH; a script needs the interpreter of its first line, a dynamic program its loader"
	case codeNotExecutable:
		d.what += fmt.Sprintf(": its program %q cannot be executed", f.c.Path)
		d.remedy = "check the file's mode and that it was built for this machine's architecture"
	}
	return d
}

func (f facts) running() finding {
	s := f.c.State
	d := finding{what: "runs"}
	if s.Paused {
		d.what = "is paused"
	}
	if up := duration(s.StartedAt, f.now.Format(time.RFC3339Nano)); up != "" {
		d.what += ", started " + up + " ago"
	}
	if s.Health == nil || s.Health.Status == container.NoHealthcheck {
		return d
	}
	d.what += fmt.Sprintf(", and its health check says %s", s.Health.Status)
	if s.Health.Status != container.Unhealthy && s.Health.FailingStreak == 0 {
		return d
	}
	d.evidence = append(d.evidence, f.probe()...)
	d.remedy = "run the check by hand: docker exec " + strings.TrimPrefix(f.c.Name, "/") + " " + f.check()
	return d
}

// check is the command of the health check.
func (f facts) check() string {
	if h := f.c.Config.Healthcheck; h != nil && len(h.Test) > 1 {
		if h.Test[0] == "CMD-SHELL" {
			return "sh -c " + strconv.Quote(strings.Join(h.Test[1:], " "))
		}
		return strings.Join(h.Test[1:], " ")
	}
	return "<the check's command>"
}

// probe is the last failed check.
func (f facts) probe() []string {
	h := f.c.State.Health
	if h == nil {
		return nil
	}
	evidence := []string{fmt.Sprintf("%d checks in a row have failed", h.FailingStreak)}
	for i := len(h.Log) - 1; i >= 0; i-- {
		if l := h.Log[i]; l != nil && l.ExitCode != 0 {
			text := printable(strings.TrimSpace(strings.ReplaceAll(l.Output, "\n", " ")))
			if text == "" {
				text = "no output"
			}
			return append(evidence, fmt.Sprintf("the last ended with %d: %s", l.ExitCode, text))
		}
	}
	return evidence
}

func (f facts) outOfMemory() finding {
	d := finding{
		what:     "was ended by the kernel because its memory was used up" + since(f.now, f.c.State.FinishedAt),
		evidence: []string{"the kernel's out-of-memory killer struck in its control group", fmt.Sprintf("exit code %d", f.c.State.ExitCode)},
		remedy:   "give it more memory (docker update --memory) or have the program use less",
	}
	if limit := f.c.HostConfig.Memory; limit > 0 {
		d.evidence = append(d.evidence, "its limit is "+units.BytesSize(float64(limit)))
	} else {
		d.evidence = append(d.evidence, "it has no limit of its own: the machine's memory was used up")
		d.remedy = "set a limit (docker update --memory) for whatever on this machine uses too much"
	}
	return d
}

// exited explains an end by its code and by who asked for it.
func (f facts) exited() finding {
	s := f.c.State
	d := finding{what: fmt.Sprintf("ended with exit code %d", s.ExitCode) + since(f.now, s.FinishedAt)}
	if ran := duration(s.StartedAt, s.FinishedAt); ran != "" {
		d.what += " after it had run for " + ran
	}
	sent, stopped, unhealthy := f.asked()
	if unhealthy {
		d.evidence = append(d.evidence, "it was unhealthy")
		d.evidence = append(d.evidence, f.probe()...)
	}
	if sent != 0 {
		d.evidence = append(d.evidence, fmt.Sprintf("the engine was asked to send it %s", unix.SignalName(sent)))
	}
	if stopped {
		d.evidence = append(d.evidence, "it was stopped by docker stop or a restart")
	}
	sig := unix.Signal(s.ExitCode - 128)
	switch {
	case s.ExitCode == 0 && sent == 0:
		d.what += ": its program finished without an error"
		if len(f.output) == 0 && f.c.Config.OpenStdin {
			d.remedy = "a shell ends when its input does: run it with -it"
		}
	case s.ExitCode == 0:
		d.what += ": its program ended properly when it was asked to"
	case s.ExitCode == 255 && len(f.events) == 0:
		d.what += ": the engine was not there to see how (the machine or the engine was restarted)"
	case s.ExitCode > 128 && unix.SignalName(sig) != "":
		d.what += fmt.Sprintf(": a signal ended it, %s", unix.SignalName(sig))
		d.remedy = signalRemedy(sig, sent)
	case s.ExitCode == 126 || s.ExitCode == 127:
		d.what += ": its program could not run another one that it needs"
	default:
		d.what += ": its program reported an error"
		d.remedy = "docker logs " + strings.TrimPrefix(f.c.Name, "/")
	}
	return d
}

// asked looks through the engine's memory for what preceded the end.
func (f facts) asked() (sent unix.Signal, stopped, unhealthy bool) {
	for _, e := range f.events {
		switch {
		case e.Action == events.ActionStart:
			sent, stopped, unhealthy = 0, false, false
		case e.Action == events.ActionKill:
			if n, err := strconv.Atoi(e.Actor.Attributes["signal"]); err == nil {
				sent = unix.Signal(n)
			}
		case e.Action == events.ActionStop:
			stopped = true
		case strings.HasSuffix(string(e.Action), string(container.Unhealthy)) && strings.HasPrefix(string(e.Action), string(events.ActionHealthStatus)):
			unhealthy = true
		}
	}
	return sent, stopped, unhealthy
}

func signalRemedy(got, sent unix.Signal) string {
	switch {
	case got == unix.SIGKILL && sent == 0:
		return "no one asked the engine for it: look for an out-of-memory kill or another program's kill in the machine's log (dmesg)"
	case got == unix.SIGKILL:
		return "if it was to end by itself, have it handle its stop signal (see --init and --stop-signal), or give it more time (--stop-timeout)"
	case got == unix.SIGSEGV, got == unix.SIGBUS, got == unix.SIGILL, got == unix.SIGABRT, got == unix.SIGFPE:
		return "the program crashed: look at its output, and for a build for another processor"
	case got == unix.SIGSYS:
		return "a system call is not allowed to it: compare with --security-opt seccomp=unconfined"
	}
	return ""
}

// since says how long ago a time of the engine was, "" for none.
func since(now time.Time, at string) string {
	t, err := time.Parse(time.RFC3339Nano, at)
	if err != nil || t.IsZero() {
		return ""
	}
	return ", " + strings.ToLower(units.HumanDuration(now.Sub(t))) + " ago"
}

func duration(from, to string) string {
	a, err := time.Parse(time.RFC3339Nano, from)
	b, err2 := time.Parse(time.RFC3339Nano, to)
	if err != nil || err2 != nil || a.IsZero() || b.Before(a) {
		return ""
	}
	return strings.ToLower(units.HumanDuration(b.Sub(a)))
}
