package engine

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// files is a build context.
type files map[string]string

// archive is the context as a tar.
func (f files) archive(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range f {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// classicResult is what the classic endpoint answered.
type classicResult struct {
	status int
	text   string // the stream, or the error that came instead
	id     string
	err    string
	code   int // exit code of a step
}

// classicBuild builds as the SDKs do.
func classicBuild(t testing.TB, d *harness.Daemon, query url.Values, context []byte) classicResult {
	t.Helper()
	a := d.RequestAs(t, http.MethodPost, "/v1.47/build?"+query.Encode(), http.Header{"Content-Type": {"application/x-tar"}}, bytes.NewReader(context))
	r := classicResult{status: a.Status}
	if a.Status != http.StatusOK {
		r.text, _ = a.Message()
		return r
	}
	for dec := json.NewDecoder(strings.NewReader(a.Body)); dec.More(); {
		var m struct {
			Stream      string
			Aux         *struct{ ID string }
			Error       string
			ErrorDetail *struct {
				Code    int
				Message string
			}
		}
		if err := dec.Decode(&m); err != nil {
			t.Fatalf("build's answer: %v\n%s", err, a.Body)
		}
		r.text += m.Stream
		if m.Aux != nil {
			r.id = m.Aux.ID
		}
		if m.ErrorDetail != nil {
			r.err, r.code = m.Error, m.ErrorDetail.Code
		}
	}
	return r
}

// TestClassicBuild is POST /build as the SDKs of all languages use it.
func TestClassicBuild(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		dockerfile := strings.Join([]string{
			"FROM busybox AS made", "ARG WHO=world", "RUN echo hello $WHO && echo $WHO > /who",
			"FROM busybox", "ENV A=b", "COPY --from=made /who /who", "COPY data /data", `CMD ["cat", "/who", "/data"]`,
		}, "\n")
		context := files{"Dockerfile": dockerfile, "data": "content\n"}.archive(t)
		query := url.Values{"t": {"built:1", "registry.example/built"}, "buildargs": {`{"WHO":"you","UNSET":null}`}, "labels": {`{"l":"v"}`}}
		r := classicBuild(t, d, query, context)
		if r.err != "" || r.id == "" {
			t.Fatalf("build: %+v", r)
		}
		for _, want := range []string{
			"Step 1/8 : FROM busybox AS made\n", "Step 3/8 : RUN echo hello $WHO", "hello you\n", "Step 8/8 : CMD",
			"Successfully built " + strings.TrimPrefix(r.id, "sha256:")[:12] + "\n", "Successfully tagged built:1\n", "Successfully tagged registry.example/built:latest\n",
		} {
			if !strings.Contains(r.text, want) {
				t.Errorf("no %q in\n%s", want, r.text)
			}
		}
		if got := d.OK("run", "--rm", "built:1"); got != "you\ncontent" {
			t.Errorf("the image prints %q", got)
		}
		if got := d.OK("inspect", "-f", "{{.Id}} {{.Config.Labels.l}} {{.Config.Env}}", "built:1"); !strings.HasPrefix(got, r.id+" v ") || !strings.Contains(got, "A=b") {
			t.Errorf("image = %s", got)
		}
		again := classicBuild(t, d, query, context)
		if again.id != r.id || !strings.Contains(again.text, " ---> Using cache\n") {
			t.Errorf("second build: %+v, want the image %s from the cache", again, r.id)
		}
		if usage := d.Request(t, http.MethodGet, "/v1.47/system/df?type=build-cache", ""); !strings.Contains(usage.Body, `"Type":"regular"`) {
			t.Errorf("build cache = %s", usage.Body)
		}
		if pruned := d.Request(t, http.MethodPost, "/v1.47/build/prune?all=1", ""); pruned.Status != http.StatusOK || !strings.Contains(pruned.Body, `"CachesDeleted":["`) {
			t.Errorf("prune: %+v", pruned)
		}
		if got := d.OK("run", "--rm", "built:1"); got != "you\ncontent" {
			t.Errorf("after the prune the image prints %q", got)
		}
	})
}

// TestClassicBuildRefuses: bad input gives Docker's status and text.
func TestClassicBuildRefuses(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	for _, tc := range []struct {
		name    string
		query   url.Values
		context files
		status  int
		want    string // in the error
		code    int
	}{
		{"unknown instruction", nil, files{"Dockerfile": "FROM busybox\nFROBNICATE x\n"}, 400, "dockerfile parse error on line 2: unknown instruction: FROBNICATE", 0},
		{"no Dockerfile", nil, files{"x": ""}, 400, "Cannot locate specified Dockerfile: Dockerfile", 0},
		{"empty Dockerfile", nil, files{"Dockerfile": "\n"}, 400, "the Dockerfile (Dockerfile) cannot be empty", 0},
		{"squash", url.Values{"squash": {"1"}}, files{"Dockerfile": "FROM busybox\n"}, 400, "squash is not supported", 0},
		{"tag", url.Values{"t": {"UPPER"}}, files{"Dockerfile": "FROM busybox\n"}, 400, "invalid tag", 0},
		{"network", url.Values{"networkmode": {"container:x"}}, files{"Dockerfile": "FROM busybox\n"}, 400, "not supported by buildkit", 0},
		{"failing step", nil, files{"Dockerfile": "FROM busybox\nRUN echo last words; exit 7\n"}, 200, "The command '/bin/sh -c echo last words; exit 7' returned a non-zero code: 7", 7},
		{"missing source", nil, files{"Dockerfile": "FROM busybox\nCOPY nothing /\n"}, 200, `"/nothing": not found`, 0},
		{"unknown target", url.Values{"target": {"x"}}, files{"Dockerfile": "FROM busybox\n"}, 200, `target stage "x" could not be found`, 0},
		{"circular stage", nil, files{"Dockerfile": "FROM b AS a\nFROM a AS b\nCOPY --from=b / /\n"}, 200, "circular", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := classicBuild(t, d, tc.query, tc.context.archive(t))
			text := r.err
			if tc.status != http.StatusOK {
				text = r.text
			}
			if r.status != tc.status || !strings.Contains(text, tc.want) || r.code != tc.code {
				t.Errorf("build: %+v, want status %d, code %d and %q", r, tc.status, tc.code, tc.want)
			}
			if tc.name == "failing step" && !strings.Contains(r.text, "last words") {
				t.Errorf("the step's output is missing: %q", r.text)
			}
		})
	}
	if images := d.OK("images", "-aq"); strings.Count(images, "\n") > 0 {
		t.Errorf("images are left: %s", images)
	}
}

// TestClassicBuildByCLI: the stock command line without its buildx plugin uses the
// classic endpoint.
func TestClassicBuildByCLI(t *testing.T) {
	testenv.Need(t, testenv.Root)
	stock := harness.StockDocker()
	if stock == "" {
		t.Log("no stock command line on this machine: TestClassicBuild has its requests")
		return
	}
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	dir := files{"Dockerfile": "FROM busybox\nARG A\nRUN echo $A > /a\nCMD [\"cat\", \"/a\"]\n"}.dir(t)
	t.Setenv("DOCKER_BUILDKIT", "0")
	r := d.CLI(stock, "", "build", "-t", "stock:1", "--build-arg", "A=b", dir)
	if r.Code != 0 || !strings.Contains(r.Stdout, "Successfully tagged stock:1") {
		t.Fatalf("build: %+v", r)
	}
	if got := d.OK("run", "--rm", "stock:1"); got != "b" {
		t.Errorf("the image prints %q", got)
	}
	if id := d.CLI(stock, "", "build", "-q", dir); id.Code != 0 || !strings.HasPrefix(id.Stdout, "sha256:") {
		t.Errorf("build -q: %+v", id)
	}
	failing := files{"Dockerfile": "FROM busybox\nRUN exit 9\n"}.dir(t)
	if r := d.CLI(stock, "", "build", failing); r.Code != 9 || !strings.Contains(r.Stderr, "returned a non-zero code: 9") {
		t.Errorf("a failing step: %+v", r)
	}
}
