package harness

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Unchanged runs f and fails the test unless everything of the daemon is then as
// it was: what Start audits, and also the rules and set elements of nftables,
// the sockets that are bound, the paths below its directory, and the objects
// that its API lists. What the daemon releases in the background has the audit's
// time to go. What was under way before f must have settled: see Settle.
func (d *Daemon) Unchanged(t testing.TB, f func()) {
	t.Helper()
	before := d.takeState(t)
	f()
	var diff []string
	same := func() bool {
		diff = difference(before, d.takeState(t))
		return len(diff) == 0
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(auditTimeout); !same(); <-tick.C {
		if time.Now().After(deadline) {
			t.Errorf("changed:\n  %s", strings.Join(diff, "\n  "))
			return
		}
	}
}

// quiet is how long nothing changes when the daemon is at rest.
const quiet = 300 * time.Millisecond

// Settle waits until the daemon has finished what it does in the background.
func (d *Daemon) Settle(t testing.TB) {
	t.Helper()
	last, since := d.takeState(t), time.Now()
	Eventually(t, auditTimeout, "the daemon to come to rest", func() bool {
		now := d.takeState(t)
		if len(difference(last, now)) > 0 {
			last, since = now, time.Now()
		}
		return time.Since(since) > quiet
	})
}

// State is what Unchanged compares.
type State struct{ of audit }

// State looks at everything of the daemon.
func (d *Daemon) State(t testing.TB) State { return State{d.takeState(t)} }

// Since lists what has come and gone since before, marked + and -.
func (s State) Since(before State) []string { return difference(before.of, s.of) }

// difference lists what is in only one of two audits, marked + and -.
func difference(before, after audit) []string {
	var diff []string
	only := func(mark string, a, b audit) {
		for kind, names := range a {
			for name := range names {
				if mark == "-" && released(kind, name) {
					continue
				}
				if !b[kind][name] {
					diff = append(diff, fmt.Sprintf("%s %s %s", mark, kind, name))
				}
			}
		}
	}
	only("-", before, after)
	only("+", after, before)
	slices.Sort(diff)
	return diff
}

// released reports whether a thing that went away is what the daemon gives back
// in its own time, after an earlier call: a shim on its way out, an address about
// to be free, a group (perhaps of another daemon, before its shim was seen). A
// container that ends by mistake shows in what the API lists.
func released(kind, name string) bool {
	return kind == "cgroup" || kind == "process" || kind == "path" && strings.HasSuffix(name, ".gone")
}

func (d *Daemon) takeState(t testing.TB) audit {
	t.Helper()
	a := takeAudit(t, d.Dir)
	add := func(kind, name string) {
		if a[kind] == nil {
			a[kind] = map[string]bool{}
		}
		a[kind][name] = true
	}
	addRules(t, add)
	addSockets(add)
	filepath.WalkDir(d.Dir, func(path string, _ fs.DirEntry, err error) error {
		// The kernel makes work/work when it mounts an overlay.
		if err == nil && !strings.HasSuffix(path, "/work/work") {
			add("path", path)
		}
		return nil // what goes away meanwhile is gone
	})
	for kind, target := range map[string]string{"container": "/containers/json?all=1", "image": "/images/json", "network": "/networks", "volume": "/volumes"} {
		for _, name := range d.list(t, target) {
			add(kind, name)
		}
	}
	return a
}

// list returns what identifies the objects that the API lists at target.
func (d *Daemon) list(t testing.TB, target string) []string {
	t.Helper()
	type object struct {
		ID, State, Name string // Id too: encoding/json ignores case
		RepoTags        []string
	}
	answer := d.Request(t, "GET", target, "")
	var objects []object
	err := json.Unmarshal([]byte(answer.Body), &objects)
	if err != nil { // volumes are in an object
		var in struct{ Volumes []object }
		err = json.Unmarshal([]byte(answer.Body), &in)
		objects = in.Volumes
	}
	if err != nil {
		t.Errorf("GET %s = %d %q: %v", target, answer.Status, answer.Body, err)
	}
	names := make([]string, len(objects))
	for i, o := range objects {
		names[i] = strings.TrimSpace(fmt.Sprintln(o.ID, o.Name, o.State, o.RepoTags))
	}
	return names
}

// addRules adds the rules of all chains, without their counters, and the
// elements of all sets.
func addRules(t testing.TB, add func(kind, name string)) {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	chains, err := conn.ListChains()
	if err != nil {
		t.Fatal(err)
	}
	for _, chain := range chains {
		rules, err := conn.GetRules(chain.Table, chain)
		if err != nil {
			continue // removed meanwhile
		}
		for i, rule := range rules {
			var text strings.Builder
			for _, e := range rule.Exprs {
				switch e := e.(type) {
				case *expr.Counter:
					continue
				case *expr.Lookup:
					if strings.HasPrefix(e.SetName, "__") {
						e.SetName, e.SetID = "", 0 // an anonymous set: the kernel numbers them
					}
				}
				raw, err := expr.Marshal(byte(chain.Table.Family), e)
				fmt.Fprintf(&text, " %T %x %v", e, raw, err)
			}
			add("nftables rule", fmt.Sprintf("%s %s %d%s", chain.Table.Name, chain.Name, i, text.String()))
		}
	}
	tables, err := conn.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		sets, err := conn.GetSets(table)
		if err != nil {
			continue
		}
		for _, set := range sets {
			if set.Anonymous {
				continue // a part of its rule, under a name that changes
			}
			elements, err := conn.GetSetElements(set)
			if err != nil {
				continue
			}
			for _, e := range elements {
				add("nftables element", fmt.Sprintf("%s %s %x %x", table.Name, set.Name, e.Key, e.Val))
			}
		}
	}
}

// addSockets adds the local addresses on which somebody listens, or receives
// datagrams.
func addSockets(add func(kind, name string)) {
	// The states of TCP_LISTEN and of an unconnected UDP socket.
	for file, wanted := range map[string]string{"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"} {
		raw, err := os.ReadFile("/proc/self/net/" + file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(raw)) {
			if f := strings.Fields(line); len(f) > 3 && f[3] == wanted {
				add("socket", file+" "+f[1])
			}
		}
	}
}
