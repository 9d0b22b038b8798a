package crash

import (
	"fmt"
	"path/filepath"
	"strings"
)

// verb is one call of a user, with what it promises.
type verb struct {
	name  string
	setup [][]string // command lines that succeed before the fault is armed
	args  []string   // the command line under fault
	code  int        // its exit code when all is well
	// before and after describe the objects that concern the verb. After an
	// acknowledged call after holds. After any other, one of before, after and
	// between does.
	before, after claim
	between       claim
	// runs names the container whose process the verb starts or holds: it ends when
	// its shim is killed.
	runs string
	// lenient says that success with nothing done is an answer.
	lenient bool
	// verify are command lines that succeed whenever after holds.
	verify [][]string
	// resumes says that what an interrupted call has stored is kept for the next.
	resumes bool
}

// claim is what should hold of the objects; it returns what does not, or "".
type claim func(o objects) string

// container claims that a container is in one of the states.
func container(name string, states ...string) claim {
	return func(o objects) string {
		got := o.containers[name]
		for _, s := range states {
			if got.state == s {
				return ""
			}
		}
		return fmt.Sprintf("container %s is %q, want one of %q", name, got.state, states)
	}
}

// absent is the state of a container that is not there.
const absent = ""

func image(tag string, there bool) claim {
	return func(o objects) string { return presence("image", tag, o.images[tag], there) }
}

func network(name string, there bool) claim {
	return func(o objects) string { return presence("network", name, o.networks[name], there) }
}

func volume(name string, there bool) claim {
	return func(o objects) string { return presence("volume", name, o.volumes[name], there) }
}

func presence(kind, name string, got, want bool) string {
	if got == want {
		return ""
	}
	return fmt.Sprintf("%s %s: there is %v, want %v", kind, name, got, want)
}

// member claims that a container is, or is not, connected to a network.
func member(name, network string, connected bool) claim {
	return func(o objects) string {
		return presence("connection", name+" to "+network, o.containers[name].networks[network], connected)
	}
}

// all claims everything.
func all(claims ...claim) claim {
	return func(o objects) string {
		var wrong []string
		for _, c := range claims {
			if s := c(o); s != "" {
				wrong = append(wrong, s)
			}
		}
		return strings.Join(wrong, "; ")
	}
}

// generator returns the verbs. The names of their objects start with x; registry
// is the address of one that has the image of pull, and dir holds the archives.
func generator(registry, dir string) []verb {
	forever := []string{"busybox", "sh", "-c", "trap 'exit 7' TERM; touch /mark; while :; do sleep 0.05; done"}
	ready := []string{"exec", "x1", "sh", "-c", "while [ ! -e /mark ]; do sleep 0.02; done"}
	runX := append([]string{"run", "-d", "--name", "x1"}, forever...)
	createX := append([]string{"create", "--name", "x1"}, forever...)
	whole := func(tag string) [][]string { return [][]string{{"run", "--rm", tag, "cat", "/etc/passwd"}} }
	remote := registry + "/fixture"
	return []verb{
		{name: "create", args: append([]string{"create", "-v", "xv:/v", "--name", "x1"}, forever...),
			before: container("x1", absent), after: all(container("x1", "created"), volume("xv", true)), verify: [][]string{{"start", "x1"}}},
		{name: "run", args: append([]string{"run", "-d", "--name", "x1", "-p", "18200:80", "-v", "xv:/v"}, forever...), runs: "x1",
			before: container("x1", absent), after: container("x1", "running"), between: container("x1", "created", "exited"),
			verify: [][]string{{"exec", "x1", "true"}}},
		{name: "run-rm", args: []string{"run", "--rm", "--name", "x1", "busybox", "sh", "-c", "echo out; exit 5"}, code: 5,
			// One that never ran is like that of docker create --rm, which is kept.
			before: container("x1", absent), after: container("x1", absent), between: container("x1", "created")},
		{name: "run-init", args: append([]string{"run", "-d", "--init", "--network", "none", "--name", "x1"}, forever...), runs: "x1",
			before: container("x1", absent), after: container("x1", "running"), between: container("x1", "created", "exited")},
		{name: "start", setup: [][]string{createX}, args: []string{"start", "x1"}, runs: "x1",
			before: container("x1", "created", "exited"), after: container("x1", "running")},
		{name: "exec", setup: [][]string{runX, ready}, args: []string{"exec", "x1", "sh", "-c", "echo in; exit 6"}, code: 6, runs: "x1",
			before: container("x1", "running"), after: container("x1", "running"), verify: [][]string{{"exec", "x1", "true"}}},
		{name: "stop", setup: [][]string{runX, ready}, args: []string{"stop", "x1"}, runs: "x1",
			before: container("x1", "running"), after: container("x1", "exited"), verify: [][]string{{"start", "x1"}}},
		{name: "kill", setup: [][]string{runX, ready}, args: []string{"kill", "x1"}, runs: "x1",
			before: container("x1", "running"), after: container("x1", "exited", "running")},
		{name: "restart", setup: [][]string{runX, ready}, args: []string{"restart", "-t", "2", "x1"}, runs: "x1",
			before: container("x1", "running"), after: container("x1", "running"), between: container("x1", "exited")},
		{name: "pause", setup: [][]string{runX, ready}, args: []string{"pause", "x1"}, runs: "x1",
			before: container("x1", "running"), after: container("x1", "paused"), verify: [][]string{{"unpause", "x1"}}},
		{name: "unpause", setup: [][]string{runX, ready, {"pause", "x1"}}, args: []string{"unpause", "x1"}, runs: "x1",
			before: container("x1", "paused"), after: container("x1", "running")},
		{name: "rm", setup: [][]string{createX}, args: []string{"rm", "x1"},
			before: container("x1", "created"), after: container("x1", absent), between: container("x1", "dead"), verify: [][]string{createX}},
		{name: "rm-f", setup: [][]string{runX, ready}, args: []string{"rm", "-f", "x1"}, runs: "x1",
			before: container("x1", "running", "exited"), after: container("x1", absent), between: container("x1", "dead"), verify: [][]string{createX}},
		{name: "rename", setup: [][]string{createX}, args: []string{"rename", "x1", "x2"},
			before: all(container("x1", "created"), container("x2", absent)), after: all(container("x1", absent), container("x2", "created")),
			verify: [][]string{createX}},
		{name: "update", setup: [][]string{runX, ready}, args: []string{"update", "--pids-limit", "200", "x1"}, runs: "x1",
			before: container("x1", "running"), after: container("x1", "running")},
		{name: "cp", setup: [][]string{createX}, args: []string{"cp", filepath.Join(dir, "file"), "x1:/file"},
			before: container("x1", "created"), after: container("x1", "created"), verify: [][]string{{"cp", "x1:/file", filepath.Join(dir, "back")}}},
		{name: "commit", setup: [][]string{runX, ready}, args: []string{"commit", "x1", "ximage:latest"}, runs: "x1",
			before: image("ximage:latest", false), after: image("ximage:latest", true),
			verify: [][]string{{"run", "--rm", "ximage", "cat", "/etc/passwd", "/mark"}}},
		{name: "tag", args: []string{"tag", "busybox", "ximage:latest"},
			before: image("ximage:latest", false), after: image("ximage:latest", true), verify: whole("ximage")},
		{name: "pull", args: []string{"pull", remote}, resumes: true,
			before: image(remote+":latest", false), after: image(remote+":latest", true), verify: whole(remote)},
		{name: "push", setup: [][]string{{"load", "-i", filepath.Join(dir, "fixture.tar")}}, args: []string{"push", remote},
			before: image(remote+":latest", true), after: image(remote+":latest", true), verify: whole(remote)},
		{name: "load", args: []string{"load", "-i", filepath.Join(dir, "fixture.tar")},
			before: image(remote+":latest", false), after: image(remote+":latest", true), verify: whole(remote)},
		{name: "import", args: []string{"import", filepath.Join(dir, "root.tar"), "ximage:latest"},
			before: image("ximage:latest", false), after: image("ximage:latest", true), verify: whole("ximage")},
		{name: "rmi", setup: [][]string{{"load", "-i", filepath.Join(dir, "fixture.tar")}}, args: []string{"rmi", remote},
			before: image(remote+":latest", true), after: image(remote+":latest", false)},
		{name: "network-create", args: []string{"network", "create", "xnet"},
			before: network("xnet", false), after: network("xnet", true), verify: [][]string{{"run", "--rm", "--network", "xnet", "busybox", "true"}}},
		{name: "network-rm", setup: [][]string{{"network", "create", "xnet"}}, args: []string{"network", "rm", "xnet"},
			before: network("xnet", true), after: network("xnet", false), verify: [][]string{{"network", "create", "xnet"}}},
		{name: "network-connect", setup: [][]string{{"network", "create", "xnet"}, runX, ready}, args: []string{"network", "connect", "xnet", "x1"}, runs: "x1",
			before: member("x1", "xnet", false), after: member("x1", "xnet", true)},
		{name: "network-disconnect", setup: [][]string{{"network", "create", "xnet"}, append([]string{"run", "-d", "--network", "xnet", "--name", "x1"}, forever...), ready},
			args: []string{"network", "disconnect", "xnet", "x1"}, runs: "x1",
			before: member("x1", "xnet", true), after: member("x1", "xnet", false)},
		{name: "volume-create", args: []string{"volume", "create", "xv"},
			before: volume("xv", false), after: volume("xv", true), verify: [][]string{{"run", "--rm", "-v", "xv:/v", "busybox", "touch", "/v/f"}}},
		{name: "volume-rm", setup: [][]string{{"volume", "create", "xv"}}, args: []string{"volume", "rm", "xv"},
			before: volume("xv", true), after: volume("xv", false), verify: [][]string{{"volume", "create", "xv"}}},
		{name: "prune", setup: [][]string{createX}, args: []string{"container", "prune", "-f", "--filter", "label!=keep"},
			// As in Docker, what can't be removed is left out of the answer.
			before: container("x1", "created"), after: container("x1", absent), between: container("x1", "dead"), lenient: true},
	}
}
