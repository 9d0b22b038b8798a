package engine

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// dfAnswer is the answer of GET /system/df.
type dfAnswer struct {
	LayersSize                                               *int64
	BuilderSize                                              *int64
	Images, Containers, Volumes, BuildCache                  []map[string]any
	ImageUsage, ContainerUsage, VolumeUsage, BuildCacheUsage *dfPart
	LogUsage                                                 *dfPart
}

type dfPart struct {
	ActiveCount, TotalCount, TotalSize, Reclaimable int64
	Items                                           []map[string]any
}

func diskUsage(t *testing.T, d *harness.Daemon, target string) dfAnswer {
	t.Helper()
	a := d.Request(t, "GET", target, "")
	if a.Status != 200 {
		t.Fatalf("GET %s = %d %s", target, a.Status, a.Body)
	}
	var u dfAnswer
	if err := json.Unmarshal([]byte(a.Body), &u); err != nil {
		t.Fatalf("GET %s: %v in %s", target, err, a.Body)
	}
	return u
}

// du is what du(1) counts, in bytes.
func du(t *testing.T, paths ...string) int64 {
	t.Helper()
	out, err := exec.Command("du", append([]string{"-s", "-c", "-B1"}, paths...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	n, err := strconv.ParseInt(strings.Fields(lines[len(lines)-1])[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What system df counts is what du counts, and what prune gives back.
func TestDiskUsage(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	if u := diskUsage(t, d, "/system/df?verbose=1"); u.ImageUsage == nil || u.ImageUsage.TotalCount != 0 || u.ImageUsage.TotalSize != 0 ||
		u.ContainerUsage == nil || u.VolumeUsage == nil || u.BuildCacheUsage == nil || u.LogUsage == nil || u.Images != nil {
		t.Errorf("usage of nothing = %+v", u)
	}
	d.Busybox()
	d.OK("volume", "create", "kept")
	d.OK("run", "-d", "--name", "writer", "-v", "kept:/kept", "busybox", "sh", "-c",
		"dd if=/dev/zero of=/own bs=64k count=64; dd if=/dev/zero of=/kept/file bs=64k count=32; ln /kept/file /kept/same; truncate -s 1G /kept/hole; yes 0123456789 | head -n 100000; echo done; sleep 1000")
	log := filepath.Join(d.Dir, "data/containers", d.OK("inspect", "-f", "{{.Id}}", "writer"), d.OK("inspect", "-f", "{{.Id}}", "writer")+"-json.log")
	harness.Eventually(t, commandLimit, "the end of the log", func() bool {
		return d.Docker("logs", "-n", "1", "writer").Stdout == "done\n"
	})
	u := diskUsage(t, d, "/system/df?verbose=1")
	near := func(what string, got, want int64) {
		t.Helper()
		if diff := got - want; diff*100 > want || -diff*100 > want {
			t.Errorf("%s takes %d bytes, du says %d", what, got, want)
		}
	}
	near("the volume", u.VolumeUsage.TotalSize, du(t, d.Dir+"/data/volumes/kept/_data"))
	near("the log", u.LogUsage.TotalSize, du(t, log))
	near("images and containers", u.ImageUsage.TotalSize+u.ContainerUsage.TotalSize, du(t, snapshotsAndContent(t, d)...))
	if u.VolumeUsage.ActiveCount != 1 || u.VolumeUsage.Reclaimable != 0 || u.ContainerUsage.ActiveCount != 1 || u.ContainerUsage.Reclaimable != 0 ||
		u.ImageUsage.ActiveCount != 1 || u.ImageUsage.Reclaimable != 0 || len(u.LogUsage.Items) != 1 || u.Images != nil {
		t.Errorf("usage = %+v", u)
	}

	// The forms of the versions, and single types.
	if old := diskUsage(t, d, "/v1.41/system/df"); old.LayersSize == nil || *old.LayersSize != u.ImageUsage.TotalSize || old.BuilderSize == nil ||
		len(old.Images) != 1 || len(old.Containers) != 1 || len(old.Volumes) != 1 || old.ImageUsage != nil || old.LogUsage != nil {
		t.Errorf("usage before 1.42 = %+v", old)
	}
	if both := diskUsage(t, d, "/system/df"); len(both.Images) != 1 || both.ImageUsage == nil || both.ImageUsage.Items != nil || both.BuilderSize != nil {
		t.Errorf("usage that is not verbose = %+v", both)
	}
	if one := diskUsage(t, d, "/system/df?type=volume&type=log&verbose=1"); one.VolumeUsage == nil || one.LogUsage == nil || one.ImageUsage != nil || one.ContainerUsage != nil {
		t.Errorf("usage of volumes and logs = %+v", one)
	}
	if a := d.Request(t, "GET", "/system/df?type=nonsense", ""); a.Status != 400 {
		t.Errorf("usage of nonsense = %d %s", a.Status, a.Body)
	} else if m, _ := a.Message(); m != "unknown object type: nonsense" {
		t.Errorf("usage of nonsense says %q", m)
	}

	// What is counted as reclaimable is what prune reclaims.
	d.OK("rm", "-f", "writer")
	u = diskUsage(t, d, "/system/df")
	var pruned struct{ SpaceReclaimed int64 }
	for _, tc := range []struct {
		target string
		want   int64
	}{
		{"/volumes/prune?filters=" + `{"all":["true"]}`, u.VolumeUsage.Reclaimable},
		{"/images/prune?filters=" + `{"dangling":["false"]}`, -1},
	} {
		a := d.Request(t, "POST", tc.target, "")
		if err := json.Unmarshal([]byte(a.Body), &pruned); err != nil || a.Status != 200 || pruned.SpaceReclaimed == 0 || tc.want >= 0 && pruned.SpaceReclaimed != tc.want {
			t.Errorf("POST %s = %d %s, want %d bytes", tc.target, a.Status, a.Body, tc.want)
		}
	}
	if u := diskUsage(t, d, "/system/df"); u.ImageUsage.TotalSize != 0 || u.VolumeUsage.TotalSize != 0 || u.ContainerUsage.TotalCount != 0 || u.LogUsage.TotalCount != 0 {
		t.Errorf("usage of what is left = %+v %+v", u.ImageUsage, u.VolumeUsage)
	}
}

// snapshotsAndContent are the directories of blobs and of snapshots' files.
func snapshotsAndContent(t *testing.T, d *harness.Daemon) []string {
	t.Helper()
	root := filepath.Join(d.Dir, "data/containerd/daemon")
	paths, err := filepath.Glob(filepath.Join(root, "snapshots/overlayfs/snapshots/*/fs"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("snapshots: %q, %v", paths, err)
	}
	return append(paths, filepath.Join(root, "content/blobs"))
}

// Credentials are checked with the registry that they are for.
func TestLogin(t *testing.T) {
	testenv.Need(t, testenv.Root)
	registry := harness.PrivateRegistry(t)
	d := harness.Start(t, harness.Options{})
	ask := func(body string) harness.Answer { return d.Request(t, "POST", "/auth", body) }
	good := ask(`{"username":"me","password":"secret","serveraddress":"` + registry + `"}`)
	if good.Status != 200 || good.Body != `{"Status":"Login Succeeded"}`+"\n" {
		t.Errorf("login = %d %s", good.Status, good.Body)
	}
	for body, want := range map[string]struct {
		status int
		text   string
	}{
		`{"username":"me","password":"wrong","serveraddress":"` + registry + `"}`: {401, registry + "/v2/ failed with status: 401 Unauthorized"},
		`{"serveraddress":"` + registry + `"}`:                                    {401, registry + "/v2/ failed with status: 401 Unauthorized"},
		`{"username":"me","password":"x","serveraddress":"127.0.0.1:1"}`:          {500, "connection refused"},
		`{"username":"me","password":"x","serveraddress":"a b"}`:                  {400, `invalid registry address "a b"`},
		`[]`: {400, "invalid JSON"},
	} {
		a := ask(body)
		if m, ok := a.Message(); a.Status != want.status || !ok || !strings.Contains(m, want.text) {
			t.Errorf("login %s = %d %s, want %d %q", body, a.Status, a.Body, want.status, want.text)
		}
	}
	stock := harness.StockDocker()
	if stock == "" {
		return
	}
	if r := d.CLI(stock, "wrong", "login", "-u", "me", "--password-stdin", registry); r.Code == 0 || !strings.Contains(r.Stderr, "401") {
		t.Errorf("login with a wrong password = %+v", r)
	}
	if r := d.CLI(stock, "secret", "login", "-u", "me", "--password-stdin", registry); r.Code != 0 || !strings.Contains(r.Stdout, "Login Succeeded") {
		t.Errorf("login = %+v", r)
	}
}
