package kit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func open(t *testing.T) *Kit {
	t.Helper()
	k, err := Open("../../..", t.TempDir(), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestOnce(t *testing.T) {
	k := open(t)
	calls := 0
	write := func(context.Context) error {
		calls++
		return os.WriteFile(k.fresh("sub/product"), []byte("new"), 0o644)
	}
	for range 2 {
		if err := k.once(t.Context(), "sub/product", write); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(k.path("sub/product")); calls != 1 || err != nil || string(got) != "new" {
		t.Errorf("made %d times: %q, %v", calls, got, err)
	}
}

func TestOnceFails(t *testing.T) {
	k := open(t)
	broken := errors.New("broken")
	err := k.once(t.Context(), "product", func(context.Context) error {
		os.WriteFile(k.fresh("product"), nil, 0o644)
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(k.path("product")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a product has its name: %v", err)
	}
}

func TestRun(t *testing.T) {
	out, err := run(t.Context(), t.TempDir(), []string{"WORD=said"}, "sh", "-c", "echo $WORD; echo else >&2")
	if err != nil || out != "said\n" {
		t.Errorf("%q, %v", out, err)
	}
	_, err = run(t.Context(), "", nil, "sh", "-c", "echo out; echo why >&2; exit 1")
	if err == nil || !strings.Contains(err.Error(), "out\nwhy\n") {
		t.Errorf("error %v does not say what was said", err)
	}
}

// TestAdaptSigner runs an adapted script of the same form with the arguments of
// an older and of a newer git.
func TestAdaptSigner(t *testing.T) {
	const script = `#!/bin/sh
buf="" out="" args=""
while [ $# -gt 0 ]; do
    case "$1" in
        -U)
            shift
            buf="$1"
            out="${buf}.sig"
            ;;
        *)
            args="$args $1"
            ;;
    esac
    shift
done
[ -n "$buf" ] || { echo "missing -U buffer" >&2; exit 1; }
echo signature >"$buf.sig"
mv "$buf.sig" "$out"
`
	dir := t.TempDir()
	name := filepath.Join(dir, "sign.sh")
	if err := os.WriteFile(name, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := adaptSigner(name); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-Y", "sign", filepath.Join(dir, "old")}, {"-Y", "sign", "-U", filepath.Join(dir, "new")}} {
		if _, err := run(t.Context(), "", nil, append([]string{name}, args...)...); err != nil {
			t.Errorf("%v: %v", args, err)
		}
		if _, err := os.Stat(args[len(args)-1] + ".sig"); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
}
