// Package archtest holds the rules of the source tree that a machine can check:
// who may import whom, what the small programs may link, which constructs are
// banned.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "lighter"

// goPackage is what go list says of a package.
type goPackage struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
	Module     *struct{ Path string }
}

func list(t *testing.T, args ...string) []goPackage {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Standard,Imports,Deps,Module"}, args...)...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var pkgs []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// component is the first folder of a package of ours: "engine" of
// lighter/engine/network.
func component(path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, module+"/")
	if !ok {
		return "", false
	}
	first, _, _ := strings.Cut(rest, "/")
	return first, true
}

// lattice is the direction of imports: a component may import itself, internal,
// and what stands here.
var lattice = map[string][]string{
	"cmd":        {"builder", "cli", "engine", "containerd", "shim", "runc"},
	"builder":    {"containerd"},
	"cli":        {},
	"engine":     {"containerd"},
	"containerd": {},
	"shim":       {},
	"runc":       {},
	"internal":   {},
	"test":       {"cli", "engine", "containerd", "shim", "runc"},
}

// joints are the only packages of containerd that engine and builder see: Services and
// the image pipeline that runs on them, never what implements them.
var joints = []string{module + "/containerd", module + "/containerd/image"}

func TestImportsPointInward(t *testing.T) {
	for _, p := range list(t, "./...") {
		from, ok := component(p.ImportPath)
		if !ok {
			continue
		}
		allowed, known := lattice[from]
		if !known {
			t.Errorf("%s: folder %q has no rule in the lattice", p.ImportPath, from)
		}
		for _, imp := range p.Imports {
			to, ok := component(imp)
			if !ok || to == from || to == "internal" {
				continue
			}
			if !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s: %s may import only %v and internal", p.ImportPath, imp, from, allowed)
			}
			if (from == "engine" || from == "builder") && to == "containerd" && !slices.Contains(joints, imp) {
				t.Errorf("%s imports %s: engine and builder see only %v", p.ImportPath, imp, joints)
			}
		}
	}
}

// banned are modules and packages that must not be linked, with the reason.
var banned = map[string]string{
	"github.com/moby/moby/v2":                           "the engine is ours; only moby's api and client modules are shared contracts",
	"github.com/docker/cli/cli/command":                 "the command line is ours",
	"github.com/containerd/containerd/v2/cmd":           "containerd's programs are ours",
	"github.com/containerd/containerd/v2/plugins":       "containerd's services are ours",
	"github.com/containerd/containerd/v2/internal":      "containerd's services are ours",
	"github.com/containerd/containerd/v2/core/metadata": "the metadata store is ours",
	"github.com/opencontainers/runc":                    "the runtime is ours",
}

func TestBannedImports(t *testing.T) {
	for _, p := range list(t, "./...") {
		for _, imp := range p.Imports {
			for prefix, reason := range banned {
				if imp == prefix || strings.HasPrefix(imp, prefix+"/") {
					t.Errorf("%s imports %s: %s", p.ImportPath, imp, reason)
				}
			}
		}
	}
}

// The modules that the programs on the path of every container may link. They
// start once per container: what they import is start-up time and memory.
var budgets = map[string][]string{
	"./cmd/docker-init": {},
	"./cmd/runc": {
		"github.com/containerd/errdefs", "github.com/moby/sys/user", "github.com/opencontainers/runtime-spec",
		"golang.org/x/sys",
	},
	"./cmd/containerd-shim-runc-v2": {
		"github.com/containerd/errdefs", "github.com/opencontainers/runtime-spec", "golang.org/x/sys",
	},
}

func TestImportBudgets(t *testing.T) {
	for _, program := range slices.Sorted(maps.Keys(budgets)) {
		linked := map[string]bool{}
		for _, p := range list(t, "-deps", program) {
			if p.Module != nil && p.Module.Path != module {
				linked[p.Module.Path] = true
			}
			if p.ImportPath == "google.golang.org/grpc" {
				t.Errorf("%s links grpc", program)
			}
		}
		for _, mod := range slices.Sorted(maps.Keys(linked)) {
			if !slices.Contains(budgets[program], mod) && mod != "google.golang.org/grpc" {
				t.Errorf("%s links %s, which is not in its budget", program, mod)
			}
		}
	}
}

// buildPrograms are the only programs that link BuildKit, which is larger than all
// the rest: the others would start slower and hold more memory for nothing.
var buildPrograms = []string{module + "/cmd/docker-buildkitd", module + "/cmd/docker-build"}

func TestBuildKitStaysInItsProcess(t *testing.T) {
	for _, p := range list(t, "./cmd/...") {
		if slices.Contains(buildPrograms, p.ImportPath) {
			continue
		}
		for _, dep := range p.Deps {
			if dep == module+"/builder" || strings.HasPrefix(dep, "github.com/moby/buildkit/") {
				t.Errorf("%s links %s", p.ImportPath, dep)
			}
		}
	}
}

// eachFile calls f for every Go file of the tree that is not generated.
func eachFile(t *testing.T, f func(path string, file *ast.File, fset *token.FileSet)) {
	t.Helper()
	fset := token.NewFileSet()
	root := "../.."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		if !ast.IsGenerated(file) {
			rel, _ := filepath.Rel(root, path)
			f(rel, file, fset)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPackageNamesSayWhatTheyHold(t *testing.T) {
	vague := []string{"util", "utils", "common", "helpers", "helper", "misc", "base", "types"}
	eachFile(t, func(path string, file *ast.File, _ *token.FileSet) {
		if slices.Contains(vague, file.Name.Name) {
			t.Errorf("%s: package %s says nothing of what it holds", path, file.Name.Name)
		}
	})
}

func TestEveryPackageIsDocumented(t *testing.T) {
	documented := map[string]bool{}
	eachFile(t, func(path string, file *ast.File, _ *token.FileSet) {
		if strings.HasSuffix(file.Name.Name, "_test") {
			return
		}
		dir := filepath.Dir(path)
		documented[dir] = documented[dir] || file.Doc != nil
	})
	for _, dir := range slices.Sorted(maps.Keys(documented)) {
		if !documented[dir] {
			t.Errorf("%s: no package comment", dir)
		}
	}
}

func TestBannedConstructs(t *testing.T) {
	eachFile(t, func(path string, file *ast.File, fset *token.FileSet) {
		test := strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "test/")
		main := file.Name.Name == "main"
		for _, d := range file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: init function: wire it in main instead", fset.Position(fn.Pos()))
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			switch name := callee(call); {
			case name == "context.TODO":
				t.Errorf("%s: context.TODO", fset.Position(call.Pos()))
			case name == "time.Sleep" && test:
				t.Errorf("%s: time.Sleep in a test: wait for the event", fset.Position(call.Pos()))
			case (name == "os.Exit" || strings.HasPrefix(name, "log.Fatal")) && !main && !test:
				t.Errorf("%s: %s outside main", fset.Position(call.Pos()), name)
			case name == "strings.Contains" && !test && len(call.Args) > 0 && callee2(call.Args[0]) == "Error":
				t.Errorf("%s: decided by an error's text", fset.Position(call.Pos()))
			}
			return true
		})
	})
}

// callee returns "pkg.Func" of a call, or "".
func callee(call *ast.CallExpr) string {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	if x, ok := sel.X.(*ast.Ident); ok {
		return x.Name + "." + sel.Sel.Name
	}
	return ""
}

// callee2 returns the method's name when e is a method call, or "".
func callee2(e ast.Expr) string {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return ""
	}
	if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
		return sel.Sel.Name
	}
	return ""
}
