package kiln

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/kiln-build/kiln"

// packages is the import law: a package may import those of lower rows and its
// own part of the tree, nothing else of this module. A name stands for itself
// and everything below it; the longest name that fits a package counts.
var packages = []room{
	{row: 0, name: "builder/graph"},
	{row: 0, name: "builder/event"},
	{row: 0, name: "builder/boltcheck"},
	{row: 0, name: "builder/idmap"},
	{row: 0, name: "snapshotter", never: []string{module + "/builder"}},
	{row: 1, name: "builder/store"},
	{row: 1, name: "builder/cache"},
	{row: 1, name: "builder/session"},
	{row: 1, name: "builder/policy"},
	{row: 1, name: "builder/sandbox"},
	{row: 2, name: "builder/layer"},
	{row: 2, name: "builder/schedule", never: []string{"github.com/containerd/containerd/"}},
	{row: 3, name: "builder/source"},
	{row: 3, name: "builder/op"},
	{row: 3, name: "builder/export"},
	{row: 4, name: "builder/frontend"},
	{row: 5, name: "builder"},
	{row: 6, name: "plugin"},
	{row: 6, name: "nerdctlext", never: []string{module + "/"}, also: []string{"client"}},
	{row: 7, name: "cmd/kilnd"},
	{row: 7, name: "cmd/kiln-init"},
	{row: 7, name: "cmd/kiln"},
	{row: 8, name: "integration", never: []string{module + "/"}},
	{row: 8, name: "contrib", never: []string{module + "/"}},
	{row: 8, name: ""}, // this test
}

// buildkit lists what may be imported of github.com/moby/buildkit: the wire's
// contracts and the Dockerfile language, never the engine. "/..." stands for
// everything below.
var buildkit = []string{
	"api/...",
	"client/llb",
	"client/llb/llbbuild",
	"client/llb/sourceresolver",
	"frontend/dockerfile/...",
	"frontend/dockerui",
	"frontend/gateway/client",
	"frontend/gateway/pb",
	"frontend/subrequests/...",
	"session/...",
	"solver/errdefs",
	"solver/pb",
	"solver/result",
	"sourcepolicy/pb",
	"sourcepolicy/policysession",
	"util/apicaps/...",
	"util/entitlements",
	"util/grpcerrors",
	"util/progress/progressui",
}

// environment may be read only where a process starts and where its
// configuration is made; in tests and packages named *test as well.
var environment = []string{"cmd", "plugin/config", "integration", "contrib"}

// room is a part of the tree and its place in the order.
type room struct {
	row   int
	name  string
	never []string // prefixes of import paths that are refused although a lower row
	also  []string // packages of BuildKit allowed here and nowhere else
}

// roomOf finds the room of a package by its path inside the module.
func roomOf(pkg string) (room, bool) {
	var found room
	ok := false
	for _, r := range packages {
		if within(pkg, r.name) && (!ok || len(r.name) > len(found.name)) {
			found, ok = r, true
		}
	}
	return found, ok && (found.name != "" || pkg == "")
}

// refused says why a package of this module must not import a path, or "".
func refused(pkg, imported string) string {
	from, _ := roomOf(pkg)
	if name, ok := strings.CutPrefix(imported, "github.com/moby/buildkit/"); ok {
		if !slices.ContainsFunc(append(buildkit, from.also...), func(p string) bool { return matches(name, p) }) {
			return "this part of BuildKit is its engine, not a contract"
		}
	}
	name, ours := strings.CutPrefix(imported, module+"/")
	to, _ := roomOf(name)
	if ours && to.name == from.name {
		return ""
	}
	for _, prefix := range from.never {
		if strings.HasPrefix(imported, prefix) {
			return from.name + " never imports " + prefix
		}
	}
	if ours && to.row >= from.row {
		return to.name + " is not in a lower row than " + from.name
	}
	return ""
}

func matches(name, pattern string) bool {
	if dir, ok := strings.CutSuffix(pattern, "/..."); ok {
		return within(name, dir)
	}
	return name == pattern
}

// within says whether a slash-separated path is dir or lies below it.
func within(name, dir string) bool {
	return dir == "" || name == dir || strings.HasPrefix(name, dir+"/")
}

// TestDesign compares the table with that of docs/design.md.
func TestDesign(t *testing.T) {
	text, err := os.ReadFile("docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, line := range regexp.MustCompile(`(?m)^\| (\d|–) \| ([^|]+) \|`).FindAllStringSubmatch(string(text), -1) {
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(line[2], -1) {
			documented[name[1]] = line[1]
		}
	}
	for _, r := range packages {
		if r.name == "" {
			continue
		}
		want := strconv.Itoa(r.row)
		if r.row == 8 {
			want = "–"
		}
		if got := documented[r.name]; got != want {
			t.Errorf("docs/design.md has %s in row %q, arch_test.go in %s", r.name, got, want)
		}
		if _, err := os.Stat(r.name); err != nil {
			t.Errorf("arch_test.go has a row for what isn't there: %v", err)
		}
		delete(documented, r.name)
	}
	for name := range documented {
		t.Errorf("arch_test.go has no row for %s", name)
	}
}

func TestLaw(t *testing.T) {
	for _, c := range []struct {
		pkg, imported string
		allowed       bool
	}{
		{"builder/graph", "github.com/moby/buildkit/solver/pb", true},
		{"builder/graph", module + "/builder/event", false},
		{"builder/layer", module + "/builder/store", true},
		{"builder/layer", module + "/builder/schedule", false},
		{"builder/store/host", module + "/builder/store", true},
		{"builder/store", module + "/builder/layer", false},
		{"builder/cache/remote/s3", module + "/builder/cache", true},
		{"builder/schedule", "github.com/containerd/containerd/v2/core/leases", false},
		{"builder/schedule", "github.com/containerd/errdefs", true},
		{"builder/op", module + "/builder", false},
		{"builder", module + "/builder/op", true},
		{"builder", module + "/plugin/config", false},
		{"builder", "github.com/moby/buildkit/solver", false},
		{"builder", "github.com/moby/buildkit/client", false},
		{"builder/policy", "github.com/moby/buildkit/sourcepolicy", false},
		{"builder/policy", "github.com/moby/buildkit/sourcepolicy/pb", true},
		{"builder", "github.com/moby/buildkit/client/llb", true},
		{"builder", "github.com/moby/buildkit/api/types", true},
		{"snapshotter", module + "/builder/boltcheck", false},
		{"builder/store/embedded", module + "/snapshotter", true},
		{"plugin", module + "/plugin/config", true},
		{"plugin", module + "/nerdctlext", false},
		{"nerdctlext", "github.com/moby/buildkit/client", true},
		{"nerdctlext", module + "/builder/event", false},
		{"cmd/kiln", module + "/nerdctlext", true},
		{"cmd/kiln", module + "/cmd/kilnd", false},
		{"integration/bench", module + "/integration/testbed", true},
		{"integration", module + "/builder/store", false},
	} {
		if why := refused(c.pkg, c.imported); (why == "") != c.allowed {
			t.Errorf("%s importing %s: allowed should be %t, refused says %q", c.pkg, c.imported, c.allowed, why)
		}
	}
}

func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		if _, ok := roomOf(s.pkg); !ok {
			t.Errorf("%s: package %s is in no row of the table in arch_test.go", s.name, s.pkg)
			continue
		}
		for _, imp := range s.Imports {
			imported, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatalf("%s: import %s: %v", s.name, imp.Path.Value, err)
			}
			if why := refused(s.pkg, imported); why != "" {
				t.Errorf("%s: imports %s: %s", s.name, imported, why)
			}
		}
	}
}

func TestPackageNamesAndComments(t *testing.T) {
	comments := map[string]string{}
	for _, s := range sources(t) {
		comments[s.pkg] += s.Doc.Text()
	}
	for pkg, comment := range comments {
		if name := path.Base(pkg); name == "util" || name == "common" || name == "helpers" {
			t.Errorf("package %s: the name does not say what it holds", path.Join(module, pkg))
		}
		if strings.TrimSpace(comment) == "" {
			t.Errorf("package %s has no package comment", path.Join(module, pkg))
		}
	}
}

// TestCalls refuses calls that hide an input or a lifetime.
func TestCalls(t *testing.T) {
	for _, s := range sources(t) {
		if strings.HasSuffix(s.name, "_test.go") || strings.HasSuffix(s.pkg, "test") {
			continue
		}
		readsEnv := slices.ContainsFunc(environment, func(dir string) bool { return within(s.pkg, dir) })
		ast.Inspect(s.File, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, ok := sel.X.(*ast.Ident)
			if !ok {
				return true
			}
			switch call := pkg.Name + "." + sel.Sel.Name; call {
			case "os.Getenv", "os.LookupEnv", "os.Environ":
				if !readsEnv {
					t.Errorf("%s: %s: the environment is read only in %s", s.name, call, strings.Join(environment, ", "))
				}
			case "context.TODO":
				t.Errorf("%s: %s: a call needs a context with a known lifetime", s.name, call)
			}
			return true
		})
	}
}

// source is one Go file of this module.
type source struct {
	*ast.File
	pkg  string // the package's path inside the module, "" for the root
	name string // the file's path inside the module
}

// sources parses the Go files of this module, of every platform and build tag.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return skipped(name)
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(filepath.Dir(name))
		all = append(all, source{File: file, pkg: strings.TrimPrefix(pkg, "."), name: name})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// skipped returns fs.SkipDir for folders that hold no package of this module.
func skipped(dir string) error {
	if dir == "." {
		return nil
	}
	base := filepath.Base(dir)
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	if err == nil || base == "testdata" || base == "bin" || base[0] == '.' || base[0] == '_' {
		return fs.SkipDir
	}
	return nil
}
