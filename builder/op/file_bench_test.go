package op

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
)

// BenchmarkFileCopy copies a layer with 20,000 small files and 300 MB in large
// ones to the root of another layer: the digest of what is copied, and the copy.
func BenchmarkFileCopy(b *testing.B) {
	s := newFileBench(b)
	w, err := s.layers.NewWorkspace(s.ctx, nil)
	if err != nil {
		b.Fatal(err)
	}
	dir, err := w.Dir(s.ctx)
	if err != nil {
		b.Fatal(err)
	}
	for i := range 200 {
		os.Mkdir(filepath.Join(dir, fmt.Sprint(i)), 0o755)
		for j := range 100 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i), fmt.Sprint(j)), fmt.Appendf(nil, "%d %d", i, j), 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	for i := range 3 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("big", i)), bytes.Repeat([]byte("0123456789"), 10<<20), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	src, err := w.Commit(s.ctx, layer.Meta{})
	if err != nil {
		b.Fatal(err)
	}
	base := s.must(fileStep(0, mkfile(-1, 0, "base", "1")))
	step := fileStep(2, copyFrom(0, 1, 0, "/", "/app"))
	b.Run("digest", func(b *testing.B) {
		key, err := NewFile(s.layers, step).Key(s.ctx, schedule.Job{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := key.Inputs[1].Content(s.ctx, schedule.Job{}, src); err != nil {
			b.Fatal(err)
		}
	})
	b.Run("copy", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.run(step, base, src); err != nil {
				b.Fatal(err)
			}
		}
	})
}
