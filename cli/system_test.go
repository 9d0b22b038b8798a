package cli

import (
	"net/http"
	"strings"
	"testing"
)

// pruner answers every prune with one object and records the filters.
type pruner struct{ asked []string }

func (p *pruner) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.asked = append(p.asked, r.URL.Path+" "+r.URL.Query().Get("filters"))
	switch r.URL.Path {
	case "/containers/prune":
		w.Write([]byte(`{"ContainersDeleted":["c1"],"SpaceReclaimed":1000}`))
	case "/networks/prune":
		w.Write([]byte(`{"NetworksDeleted":["n1"]}`))
	case "/volumes/prune":
		w.Write([]byte(`{"VolumesDeleted":["v1"],"SpaceReclaimed":500}`))
	case "/images/prune":
		w.Write([]byte(`{"ImagesDeleted":[{"Untagged":"i:1"},{"Deleted":"sha256:1"}],"SpaceReclaimed":500}`))
	default:
		w.WriteHeader(http.StatusNotImplemented)
	}
}

func TestSystemPrune(t *testing.T) {
	p := &pruner{}
	i := newInvocation(t, p)
	i.write("config.json", `{"pruneFilters":["label!=keep","label=x"]}`, 0o600)
	out, _, err := i.docker("", "-H", i.host, "system", "prune", "-af", "--volumes", "--filter", "label!=x")
	if err != nil {
		t.Fatal(err)
	}
	want := "Deleted Containers:\nc1\n\nDeleted Networks:\nn1\n\nDeleted Volumes:\nv1\n\nDeleted Images:\nuntagged: i:1\ndeleted: sha256:1\n\nTotal reclaimed space: 2kB\n"
	if out != want {
		t.Errorf("got  %q\nwant %q", out, want)
	}
	if asked := strings.Join(p.asked, "\n"); !strings.HasPrefix(asked, `/containers/prune {"label!":{"keep":true,"x":true}}`) || !strings.Contains(asked, `/images/prune {"dangling":{"false":true}`) {
		t.Errorf("asked:\n%s", asked)
	}
	p.asked = nil
	i.want("", `The "until" filter is not supported with "--volumes"`, "-H", i.host, "system", "prune", "-f", "--volumes", "--filter", "until=1h")
	out, _, err = i.docker("n\n", "-H", i.host, "system", "prune", "--filter", "label=y")
	if err != nil || !strings.HasPrefix(out, "WARNING! This will remove:\n  - all stopped containers\n") || !strings.Contains(out, "  Items to be pruned will be filtered with:\n") {
		t.Errorf("question = %q, %v", out, err)
	}
	if len(p.asked) > 0 {
		t.Errorf("pruned without consent: %v", p.asked)
	}
}

func TestDiskUsage(t *testing.T) {
	lighter := true
	i := newInvocation(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch types := r.URL.Query()["type"]; {
		case len(types) == 1 && types[0] == "log" && !lighter:
			http.Error(w, `{"message":"unknown object type: log"}`, http.StatusBadRequest)
		case len(types) == 1 && types[0] == "log":
			w.Write([]byte(`{"LogUsage":{"TotalCount":2,"ActiveCount":1,"TotalSize":2000,"Reclaimable":1000}}`))
		default:
			w.Write([]byte(`{"LayersSize":3000,"Images":[{"Id":"sha256:0123456789abcdef","RepoTags":["a:1"],"Size":3000,"SharedSize":0,"Containers":1}],"Containers":[],"Volumes":[{"Name":"v","Driver":"local","Scope":"local","UsageData":{"RefCount":0,"Size":5}}]}`))
		}
	}))
	const table = "TYPE            TOTAL     ACTIVE    SIZE      RECLAIMABLE\nImages          1         1         3kB       0B (0%)\n" +
		"Containers      0         0         0B        0B\nLocal Volumes   1         0         5B        5B (100%)\nBuild Cache     0         0         0B        0B\n"
	lighter = false
	i.want(table, "", "-H", i.host, "system", "df")
	lighter = true
	i.want("Images 1\nContainers 0\nLocal Volumes 1\nBuild Cache 0\nContainer Logs 2\n", "", "-H", i.host, "system", "df", "--format", "{{.Type}} {{.TotalCount}}")
	i.want("v 5B a\n", "", "-H", i.host, "system", "df", "-v", "--format", "{{range .Volumes}}{{.Name}} {{.Size}}{{end}} {{range .Images}}{{.Repository}}{{end}}")
}
