package layer

import (
	"os"
	"path/filepath"
	"testing"
)

// TestFiles: a tree in one directory is read and written without a mount, any
// other through one.
func TestFiles(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			ctx, s := openOn(t, backend)
			make := func(parent *Layer, name string) *Layer {
				w, err := s.NewWorkspace(ctx, parent)
				if err != nil {
					t.Fatal(err)
				}
				dir, err := w.Files(ctx)
				if err != nil {
					t.Fatal(err)
				}
				write(t, filepath.Join(dir, name), name)
				l, err := w.Commit(ctx, Meta{})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := w.Files(ctx); err == nil {
					t.Error("a workspace that has ended has files")
				}
				return l
			}
			base := make(nil, "a")
			dir, release, err := s.Files(ctx, base)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(got) != "a" {
				t.Errorf("read %q, %v", got, err)
			}
			if mounts := mountsBelow(t, s.root); len(mounts) > 0 {
				t.Errorf("mounted %v", mounts)
			}
			release()
			top := make(base, "b")
			opened, err := s.Open(ctx, top.Name)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range []*Layer{top, opened} {
				dir, release, err := s.Files(ctx, l)
				if err != nil {
					t.Fatal(err)
				}
				if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
					t.Errorf("layer has %v, %v", entries, err)
				}
				release()
			}
		})
	}
}
