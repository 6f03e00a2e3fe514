// Package kit makes what BuildKit's own integration suites need to run: their
// compiled tests, the images they pull, the programs and keys they use.
//
// Everything lies in one folder and is made once; removing a product has it
// made again. Root, Go, Debian's packages as the Makefile lists them and a Go
// module proxy are needed, the internet is not: images are stand-ins made of a
// busybox that is built from Debian's source.
package kit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/kiln-build/kiln/integration/conformance/suite"
)

// Kit is a folder with the products.
type Kit struct {
	dir    string
	module string // the checkout, whose tools/ pins the versions
	say    func(string)
}

// Open returns the kit in dir, made or not. Progress goes to say.
func Open(module, dir string, say func(string)) (*Kit, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	return &Kit{dir: dir, module: module, say: say}, os.MkdirAll(dir, 0o755)
}

// sources are BuildKit's suites and where they lie.
var sources = map[string]string{
	"buildctl":   "cmd/buildctl",
	"client":     "client",
	"dockerfile": "frontend/dockerfile",
	"frontend":   "frontend",
	"solver":     "solver",
}

// Suites are the names that Suite knows, in the order of running: the quick
// ones first. Gateway is the dockerfile suite with the frontend in an image in
// place of the one built into the daemon.
var Suites = []string{"frontend", "solver", "buildctl", "gateway", "client", "dockerfile"}

// Suite returns a suite without its environment, but for what makes it the one
// it is.
func (k *Kit) Suite(name string) suite.Suite {
	s := suite.Suite{Name: name}
	if name == "gateway" {
		name = "dockerfile"
		s.Env = []string{"FRONTEND_GATEWAY_ONLY=local:" + k.path("frontend.tar")}
	}
	s.Program, s.Dir = k.path("tests", name+".test"), k.path("buildkit", sources[name])
	return s
}

// Bin is the folder of programs that the tests look up by name.
func (k *Kit) Bin() string { return k.path("bin") }

// Mirror is the folder of the registry that stands in for docker.io. The suites
// write their registry's configuration there.
func (k *Kit) Mirror() string { return k.path("mirror") }

// Keys is the folder of the signature tests' keys.
func (k *Kit) Keys() string { return k.path("keys") }

// Web is the root of the web server that the sandbox offers.
func (k *Kit) Web() string { return k.path("www") }

// CNI returns the folders of network configurations and plugins.
func (k *Kit) CNI() (configs, plugins string) {
	return k.path("buildkit/hack/fixtures"), "/usr/lib/cni"
}

// Scratch is a folder for what a run writes; it is emptied by nobody.
func (k *Kit) Scratch(name string) string { return k.path("scratch", name) }

// Make makes all products that are not there. The golden files are not part of
// it, since they want a run: see NeedGoldens.
func (k *Kit) Make(ctx context.Context) error {
	for _, step := range []struct {
		product string
		make    func(context.Context) error
	}{
		{"buildkit", k.copySources},
		{"bin/dockerfile-frontend", k.buildFrontend},
		{"tests", k.buildTests},
		{"bin/silo", k.buildSilo},
		{"bin/mc", k.writeAdmin},
		{"bin/azurite-blob", k.installAzurite},
		{"keys", k.makeKeys},
		{"busybox", k.buildBusybox},
		{"www", k.makeWeb},
		{"mirror", k.makeMirror},
		{"frontend.tar", k.makeFrontendArchive},
	} {
		if err := k.once(ctx, step.product, step.make); err != nil {
			return fmt.Errorf("%s: %w", step.product, err)
		}
	}
	return nil
}

// once calls make unless the product exists. A product that is a folder must be
// made under the name that k.fresh returns.
func (k *Kit) once(ctx context.Context, product string, make func(context.Context) error) error {
	target := k.path(product)
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	k.say("making " + product)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	fresh := k.fresh(product)
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := make(ctx); err != nil {
		return err
	}
	return os.Rename(fresh, target)
}

// fresh is where a product is made before it gets its name.
func (k *Kit) fresh(product string) string { return k.path(product + ".new") }

func (k *Kit) path(elements ...string) string {
	return filepath.Join(append([]string{k.dir}, elements...)...)
}

// run runs a program in a folder with additions to the environment, and returns
// its standard output. An error has the end of everything it said.
func run(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	var out, complaints strings.Builder
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		text := out.String() + complaints.String()
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, text[max(0, len(text)-2000):])
	}
	return out.String(), nil
}
