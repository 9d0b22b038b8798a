package container

import (
	"encoding/json"
	"os"
	"regexp"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

type snapshotInfo = snapshots.Info

func setVersion(t *testing.T, path, version string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyVersion, []byte(version)) })
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

var allStates = []State{Created, Running, Paused, Restarting, Exited, Removing, Dead}
var allEvents = []event{evStart, evPause, evUnpause, evExit, evBackoff, evRemove, evFail}

func TestDrawingMatchesTable(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	drawn := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^//\t(\w+) +--(\w+)--> +(\w+)$`).FindAllStringSubmatch(string(doc), -1) {
		drawn[m[1]+" "+m[2]] = m[3]
	}
	n := 0
	for from, row := range transitions {
		for ev, to := range row {
			n++
			if got := drawn[from.String()+" "+ev.String()]; got != to.String() {
				t.Errorf("%v --%v--> %v is drawn as %q", from, ev, to, got)
			}
		}
	}
	if len(drawn) != n {
		t.Errorf("%d transitions are drawn, the table has %d", len(drawn), n)
	}
}

func TestEveryPair(t *testing.T) {
	for _, from := range allStates {
		for _, ev := range allEvents {
			r := &record{ID: "id", State: from}
			err := r.move(ev)
			want, ok := transitions[from][ev]
			switch {
			case ok && (err != nil || r.State != want):
				t.Errorf("%v --%v--> %v, %v; want %v", from, ev, r.State, err, want)
			case !ok && err == nil:
				t.Errorf("%v --%v--> %v; want it refused", from, ev, r.State)
			case !ok && r.State != from:
				t.Errorf("a refused %v changed %v to %v", ev, from, r.State)
			case !ok && ev != evUnpause && !errdefs.IsConflict(err):
				t.Errorf("%v in %v is refused with %v, want a Conflict", ev, from, err)
			}
		}
	}
}

func TestStateText(t *testing.T) {
	for _, s := range allStates {
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var got State
		if err := json.Unmarshal(data, &got); err != nil || got != s {
			t.Errorf("%s reads as %v, %v", data, got, err)
		}
	}
	if err := new(State).UnmarshalText([]byte("odd")); err == nil {
		t.Error("an unknown state was read")
	}
}
