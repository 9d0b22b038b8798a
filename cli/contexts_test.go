package cli

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// want runs a command line and compares what it prints and its error.
func (i invocation) want(stdout, errText string, args ...string) {
	i.t.Helper()
	out, _, err := i.docker("", args...)
	if stdout != "*" && out != stdout || (err == nil) != (errText == "") || err != nil && !strings.Contains(err.Error(), errText) {
		i.t.Errorf("docker %q = %q, %v; want %q, %q", args, out, err, stdout, errText)
	}
}

func TestContexts(t *testing.T) {
	var hits int
	i := newInvocation(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits++
		w.Write([]byte("[]"))
	}))
	i.want("here\n", "", "context", "create", "here", "--description", "this one", "--docker", "host="+i.host)
	i.want("", `context "here" already exists`, "context", "create", "here")
	i.want("", `"default" is a reserved context name`, "context", "create", "default")
	i.want("", `context name "a b" is invalid`, "context", "create", "a b")
	i.want("", "unrecognized config key: wrong", "context", "create", "other", "--docker", "wrong=1")
	i.want("", "unable to parse docker host", "context", "create", "other", "--docker", "host=x")
	i.want("default\n", "", "context", "show")
	i.want("here\n", "", "context", "use", "here")
	i.want("here\n", "", "context", "show")
	i.want("*", "", "ps")
	if hits != 1 {
		t.Error("ps did not use the current context")
	}
	i.want("*", "", "-c", "here", "ps")
	i.want("", "conflicting options: cannot specify both --host and --context", "-c", "here", "-H", i.host, "ps")
	i.want("", `context "none": context not found`, "-c", "none", "ps")
	i.want("", `context "here" is in use, set -f flag to force remove`, "context", "rm", "here")
	i.want("", `context "none" does not exist`, "context", "rm", "none")

	archive := filepath.Join(i.dir, "archive")
	i.want("", "", "context", "export", "here", archive)
	i.want("", "file already exists", "context", "export", "here", archive)
	i.want("copy\n", "", "context", "import", "copy", archive)
	i.want("this one\n", "", "context", "inspect", "-f", "{{.Metadata.Description}}", "copy")
	i.want("copy\n", "", "context", "update", "copy", "--description", "new")
	i.want("new "+i.host+"\n", "", "context", "inspect", "-f", "{{.Metadata.Description}} {{.Endpoints.docker.Host}}", "copy")
	i.want("third\n", "", "context", "create", "third", "--from", "copy")
	i.want("copy\ndefault\nhere\nthird\n", "", "context", "ls", "-q")
	i.want("copy\nthird\n", "", "context", "rm", "copy", "third")
	i.want("here\n", "", "context", "rm", "-f", "here")
	i.want("default\n", "", "context", "show")
	if _, _, err := i.docker("", "context", "import", "bad", filepath.Join(i.dir, "s")); err == nil {
		t.Error("imported a socket")
	}
	if entries, err := os.ReadDir(filepath.Join(i.dir, "contexts", "meta")); err != nil || len(entries) != 0 {
		t.Errorf("left in the store: %v, %v", entries, err)
	}
}
