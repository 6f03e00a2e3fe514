package builder_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kiln-build/kiln/builder"
	"github.com/moby/buildkit/client/llb"
)

// TestLost: a record whose tree, lease or both a crash has taken is no hit, and is
// made again.
func TestLost(t *testing.T) {
	for name, lost := range map[string]string{
		"tree": filepath.Join("snapshots-overlayfs", "dirs", "*"), "names": filepath.Join("snapshots-overlayfs", "engine.db"),
		"leases": filepath.Join("private", "journal.db"), "all that is private": filepath.Join("private", "*"),
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			tree := llb.Scratch().File(llb.Mkfile("/hello", 0o644, []byte("hello")), llb.WithCustomName("make hello"))
			req := builder.Request{Ref: "one", Definition: definition(t, tree)}
			build := func(cached bool) {
				t.Run("build", func(t *testing.T) {
					b, w := openIn(t, root, nil), &watch{}
					if _, err := b.Build(t.Context(), req, w); err != nil {
						t.Fatal(err)
					}
					if v := w.vertex("make hello"); v.Completed == nil || v.Cached != cached {
						t.Errorf("%+v, want cached %t", v, cached)
					}
				})
			}
			build(false)
			found, err := filepath.Glob(filepath.Join(root, "containerd", lost))
			if err != nil || len(found) == 0 {
				t.Fatalf("there is nothing to lose: %v", err)
			}
			for _, path := range found {
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
			}
			build(false)
			build(true)
		})
	}
}
