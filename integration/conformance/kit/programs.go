package kit

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// static is the environment of all builds here: the suites' module is built
// outside of any other, and its tests need modules that only tests need.
var static = []string{"CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off"}

const azuriteVersion = "3.35.0"

// copySources makes a writable copy of BuildKit's module: tests run in it, and
// one kind of their golden files is made anew.
func (k *Kit) copySources(ctx context.Context) error {
	out, err := run(ctx, filepath.Join(k.module, "tools/buildkit"), nil,
		"go", "mod", "download", "-json", "github.com/moby/buildkit")
	if err != nil {
		return err
	}
	var module struct{ Dir string }
	if err := json.Unmarshal([]byte(out), &module); err != nil {
		return err
	}
	return os.CopyFS(k.fresh("buildkit"), os.DirFS(module.Dir))
}

func (k *Kit) buildFrontend(ctx context.Context) error {
	return k.goBuild(ctx, "bin/dockerfile-frontend", k.path("buildkit"), "./frontend/dockerfile/cmd/dockerfile-frontend")
}

func (k *Kit) buildSilo(ctx context.Context) error {
	return k.goBuild(ctx, "bin/silo", filepath.Join(k.module, "integration/conformance/silo"), ".")
}

func (k *Kit) goBuild(ctx context.Context, product, dir, pkg string) error {
	_, err := run(ctx, dir, static, "go", "build", "-trimpath", "-buildvcs=false", "-o", k.fresh(product), pkg)
	return err
}

func (k *Kit) buildTests(ctx context.Context) error {
	for suite := range sources {
		if err := k.buildTest(ctx, suite, k.fresh("tests")); err != nil {
			return err
		}
	}
	return nil
}

func (k *Kit) buildTest(ctx context.Context, suite, dir string) error {
	_, err := run(ctx, k.path("buildkit"), static,
		"go", "test", "-c", "-o", filepath.Join(dir, suite+".test"), "./"+sources[suite])
	return err
}

// NeedGoldens says whether the golden files of the exporters' tests still hold
// digests over docker.io's busybox, which the stand-in cannot have.
func (k *Kit) NeedGoldens() bool {
	_, err := os.Stat(k.path("goldens"))
	return err != nil
}

// GoldenTests is the regexp of the tests that write them when
// BUILDKIT_UPDATE_COMPAT_GOLDENS is set. ClearGoldens comes before that run,
// KeepGoldens after it: it puts what was written into the compiled tests.
const GoldenTests = "ExporterCompatibilityVersion/"

// ClearGoldens removes those golden files.
func (k *Kit) ClearGoldens() error {
	for _, dir := range []string{"common", "image", "oci"} {
		if err := os.RemoveAll(k.path("buildkit/client/testdata/compatibility", dir)); err != nil {
			return err
		}
	}
	return nil
}

// KeepGoldens builds the client's tests again.
func (k *Kit) KeepGoldens(ctx context.Context) error {
	if err := k.buildTest(ctx, "client", k.path("tests")); err != nil {
		return err
	}
	return os.WriteFile(k.path("goldens"), nil, 0o644)
}

// writeAdmin writes the client of the S3 server that the suite starts beside it
// to watch its requests. It only has to keep running.
func (k *Kit) writeAdmin(context.Context) error {
	const script = "#!/bin/sh\n[ \"$1 $2\" != \"admin trace\" ] || exec sleep infinity\n"
	return os.WriteFile(k.fresh("bin/mc"), []byte(script), 0o755)
}

// installAzurite gets the blob server that one test starts. Where there is no
// npm that test fails, which its absence from must-pass.txt allows for.
func (k *Kit) installAzurite(ctx context.Context) error {
	product := k.fresh("bin/azurite-blob")
	npm, err := exec.LookPath("npm")
	if err != nil {
		k.say("no npm, so no azurite: the Azure cache cannot be tested")
		return os.WriteFile(product, []byte("#!/bin/sh\nexit 1\n"), 0o755)
	}
	dir := k.path("npm")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if _, err := run(ctx, dir, nil, npm, "install", "--no-fund", "--no-audit", "--omit=dev", "azurite@"+azuriteVersion); err != nil {
		return err
	}
	return os.Symlink(filepath.Join(dir, "node_modules/.bin/azurite-blob"), product)
}

// makeKeys runs the suites' own scripts for two users.
func (k *Kit) makeKeys(ctx context.Context) error {
	dir := k.fresh("keys")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// The scripts write the folder's final name into what they make.
	if err := os.Symlink(dir, k.path("keys")); err != nil {
		return err
	}
	defer os.Remove(k.path("keys"))
	for _, user := range []string{"user1", "user2"} {
		for _, kind := range []string{"gpg", "ssh"} {
			script := k.path("buildkit/hack/fixtures", fmt.Sprintf("gen_%s_test_env.sh", kind))
			if _, err := run(ctx, "", []string{"BUILDKIT_TEST_SIGN_FIXTURES=" + k.path("keys")}, "sh", script, user); err != nil {
				return err
			}
		}
		if err := adaptSigner(filepath.Join(dir, user+".git_ssh_sign.sh")); err != nil {
			return err
		}
	}
	_, err := run(ctx, "", []string{"GNUPGHOME=" + filepath.Join(dir, "gnupg")}, "gpgconf", "--kill", "all")
	return err
}

// adaptSigner lets the suites' ssh signing script work with a git older than
// 2.40 too, which passes the buffer without -U, and where ssh-keygen has already
// given the signature the name that git wants.
func adaptSigner(name string) error {
	script, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	text := strings.NewReplacer(
		`args="$args $1"`, `args="$args $1"; last=$1`,
		`[ -n "$buf" ] || { echo "missing -U buffer" >&2; exit 1; }`, `[ -n "$buf" ] || { buf=$last; out=$buf.sig; }`,
		`mv "$buf.sig" "$out"`, `[ "$buf.sig" = "$out" ] || mv "$buf.sig" "$out"`,
	).Replace(string(script))
	return os.WriteFile(name, []byte(text), 0o755)
}

// buildBusybox runs the script that does it.
func (k *Kit) buildBusybox(ctx context.Context) error {
	work := k.path("busybox-source")
	defer os.RemoveAll(work)
	_, err := run(ctx, "", nil, "sh", filepath.Join(k.module, "integration/conformance/kit/busybox.sh"), work, k.fresh("busybox"))
	return err
}
