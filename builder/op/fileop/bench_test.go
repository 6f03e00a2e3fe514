package fileop

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/buildkit/solver/pb"
)

// BenchmarkCopy copies 20,000 small files and 300 MB in large ones.
func BenchmarkCopy(b *testing.B) {
	src := b.TempDir()
	for i := range 200 {
		dir := filepath.Join(src, fmt.Sprintf("d%d", i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		for j := range 100 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d", j)), []byte("some content\n"), 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	for i := range 3 {
		if err := os.WriteFile(filepath.Join(src, fmt.Sprintf("big%d", i)), bytes.Repeat([]byte("0123456789"), 10<<20), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	from, err := Open(src)
	if err != nil {
		b.Fatal(err)
	}
	defer from.Close()
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		to, err := Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		a := &pb.FileActionCopy{Src: "/", Dest: "/", Mode: -1, Timestamp: -1, DirCopyContents: true, CreateDestPath: true, FollowSymlink: true}
		if err := Copy(b.Context(), from, to, a, &Owner{}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		to.Close()
		b.StartTimer()
	}
}
