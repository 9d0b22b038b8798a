package builder

import (
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/protobuf/types/known/timestamppb"

	"lighter/internal/buildlink"
)

func TestParseRequest(t *testing.T) {
	q, err := url.ParseQuery(`t=a&t=a:latest&t=r.example/b:1&buildargs={"A":"1","B":null}&labels={"l":"v"}&nocache=1&pull=1&networkmode=host` +
		`&extrahosts=h:1.2.3.4&extrahosts=gw:host-gateway&memory=64&memswap=0&shmsize=128&ulimits=[{"Name":"nofile","Soft":1,"Hard":2}]&target=x&dockerfile=D&cachefrom=["c"]`)
	if err != nil {
		t.Fatal(err)
	}
	r, err := parseRequest(q, buildlink.Config{HostGateway: []string{"10.0.0.1"}}, true)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"build-arg:A": "1", "label:l": "v", "no-cache": "", "image-resolve-mode": "pull", "force-network-mode": "host",
		"add-hosts": "h=1.2.3.4,gw=10.0.0.1", "memory": "64", "shm-size": "128", "ulimit": "nofile=1:2", "target": "x", "filename": "D",
	} {
		if got, ok := r.solve.FrontendAttrs[key]; !ok || got != want {
			t.Errorf("%s = %q, %t, want %q", key, got, ok, want)
		}
	}
	for _, key := range []string{"build-arg:B", "memswap"} {
		if got, ok := r.solve.FrontendAttrs[key]; ok {
			t.Errorf("%s = %q, want none", key, got)
		}
	}
	if got := r.solve.Exporters[0].Attrs["name"]; got != "docker.io/library/a:latest,r.example/b:1" {
		t.Errorf("names = %q", got)
	}
	if got := r.solve.Entitlements; len(got) != 1 || got[0] != "network.host" {
		t.Errorf("entitlements = %q", got)
	}
	if got := r.solve.Cache.Imports; len(got) != 1 || got[0].Attrs["ref"] != "c" {
		t.Errorf("cache imports = %v", got)
	}
}

func TestParseRequestRefuses(t *testing.T) {
	for query, want := range map[string]string{
		"squash=1": "squash", "t=a@sha256:" + strings.Repeat("a", 64): "digest", "t=A": "invalid tag", "networkmode=container:c": "not supported",
		"extrahosts=x": "invalid host", "extrahosts=x:y": "invalid IP", "buildargs={": "build args", "labels=[]": "labels", "ulimits={": "ulimit",
		"memory=lots": "memory", "platform=nonsense/a/b/c/d": "nonsense", "isolation=hyperv": "isolation", "securityopt=x": "security-opt", "cachefrom={": "cache-from",
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseRequest(q, buildlink.Config{}, true); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error = %v, want an invalid argument with %q", query, err, want)
		}
	}
}

func TestLooksLikeID(t *testing.T) {
	for name, want := range map[string]string{
		"docker.io/library/4bcff63911fc:latest": "4bcff63911fc", "docker.io/library/sha256:4bcff63911fc": "4bcff63911fc",
		"docker.io/library/busybox:latest": "", "docker.io/library/abc:latest": "", "r.example/4bcff63911fc:latest": "", "docker.io/library/sha256:latest": "",
	} {
		if got, ok := looksLikeID(name); got != want || ok != (want != "") {
			t.Errorf("looksLikeID(%q) = %q, %t, want %q", name, got, ok, want)
		}
	}
}

func TestInsecure(t *testing.T) {
	listed := []string{"reg:5000", "10.1.0.0/16"}
	for name, want := range map[string]bool{
		"reg:5000": true, "reg:5001": false, "10.1.2.3:5000": true, "10.2.2.3": false, "127.0.0.1:5000": true, "localhost:1": true, "docker.io": false,
	} {
		if got := insecure(name, listed); got != want {
			t.Errorf("insecure(%q) = %t", name, got)
		}
	}
}

// TestSteps: what the solver tells in any order is written in the Dockerfile's.
func TestSteps(t *testing.T) {
	w := httptest.NewRecorder()
	s := newSteps(newMessages(w), []string{"FROM a", "ENV X=y", "RUN one $X", "RUN two"}, false)
	now := timestamppb.New(time.Unix(1, 0))
	vertex := func(digest, name string, done bool) *controlapi.Vertex {
		v := &controlapi.Vertex{Digest: digest, Name: name, Started: now}
		if done {
			v.Completed = now
		}
		return v
	}
	s.update(&controlapi.StatusResponse{
		Vertexes: []*controlapi.Vertex{vertex("sha256:3333333333333", "[3/3] RUN two", true)},
		Logs:     []*controlapi.VertexLog{{Vertex: "sha256:3333333333333", Msg: []byte("second\n")}},
	})
	if w.Body.Len() > 0 {
		t.Errorf("written before its turn: %s", w.Body)
	}
	s.update(&controlapi.StatusResponse{
		Vertexes: []*controlapi.Vertex{vertex("sha256:1111111111111", "[1/3] FROM a", true), vertex("sha256:2222222222222", "[2/3] RUN one y", true)},
		Logs:     []*controlapi.VertexLog{{Vertex: "sha256:2222222222222", Msg: []byte("first\n")}},
	})
	s.finish(true)
	var order []int
	text := w.Body.String()
	for _, want := range []string{"Step 1/4 : FROM a", "Step 2/4 : ENV X=y", "Step 3/4 : RUN one $X", "first", "222222222222", "Step 4/4 : RUN two", "second", "333333333333"} {
		order = append(order, strings.Index(text, want))
	}
	for i, at := range order {
		if at < 0 || i > 0 && at < order[i-1] {
			t.Fatalf("order %v of\n%s", order, text)
		}
	}
}
