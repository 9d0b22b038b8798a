package engine

import (
	"encoding/json"
	"strings"
	"testing"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// TestExplore: image diff and image explore show what layers did, by our command
// line.
func TestExplore(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	d.OK("run", "--name", "c1", "busybox", "sh", "-c", "head -c 100000 /dev/zero >/big; rm /etc/group; echo x >>/etc/passwd")
	d.OK("commit", "-c", `ENV NEW=1`, "c1", "changed:1")
	d.OK("run", "--name", "c2", "changed:1", "rm", "/big")
	d.OK("commit", "c2", "changed:2")
	out := d.OK("image", "diff", "busybox", "changed:1")
	for _, want := range []string{"A /big", "D /etc/group", "C /etc/passwd", "config Env: "} {
		if !strings.Contains(out, want+"\n") && !strings.Contains(out, want) {
			t.Errorf("diff = %q, want %q", out, want)
		}
	}
	if out := d.OK("image", "diff", "busybox", "busybox"); out != "" {
		t.Errorf("diff of one image = %q", out)
	}
	if out := d.OK("image", "explore", "changed:2"); !strings.Contains(out, "WASTED") || !strings.Contains(out, "100kB") {
		t.Errorf("explore = %q", out)
	}
	var got struct {
		Layers []struct {
			Added, Changed, Removed int
			Wasted                  int64
			Changes                 []struct{ Kind, Path string }
		}
		Wasted int64
	}
	if err := json.Unmarshal([]byte(d.OK("image", "explore", "--files", "--format", "json", "changed:2")), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Layers) != 3 || got.Layers[2].Removed != 1 || got.Layers[2].Wasted != 100000 || len(got.Layers[2].Changes) == 0 || got.Wasted < 100000 {
		t.Errorf("explore = %+v", got)
	}
	for _, args := range [][]string{{"image", "diff", "busybox", "none"}, {"image", "explore", "none"}, {"image", "explore", "--format", "xml", "busybox"}} {
		if r := d.Docker(args...); r.Code != 1 || r.Stderr == "" || r.Stdout != "" {
			t.Errorf("docker %q = %+v", args, r)
		}
	}
}
