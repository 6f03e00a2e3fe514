package local

import (
	"fmt"
	"os"
	"testing"
)

// manyFiles makes 20,000 small files in directories of a hundred.
func manyFiles(tb testing.TB, dir string) {
	tb.Helper()
	for d := range 200 {
		sub := fmt.Sprintf("%s/%02d/%02d", dir, d%20, d)
		ok(tb, os.MkdirAll(sub, 0o755))
		for i := range 100 {
			ok(tb, os.WriteFile(fmt.Sprintf("%s/file%d.txt", sub, i), []byte(fmt.Sprint("content of ", d, i)), 0o644))
		}
	}
}

func BenchmarkFirst(b *testing.B) {
	dir := b.TempDir()
	manyFiles(b, dir)
	for b.Loop() {
		b.StopTimer()
		f := newFixture(b)
		s := f.client(dir)
		b.StartTimer()
		f.must(s)
	}
}

func BenchmarkUnchanged(b *testing.B) {
	f := newFixture(b)
	dir := b.TempDir()
	manyFiles(b, dir)
	s := f.client(dir)
	f.must(s)
	for b.Loop() {
		f.must(s)
	}
}

func BenchmarkOneChanged(b *testing.B) {
	f := newFixture(b)
	dir := b.TempDir()
	manyFiles(b, dir)
	s := f.client(dir)
	f.must(s)
	n := 0
	for b.Loop() {
		n++
		put(b, dir+"/00/00/file1.txt", fmt.Sprint("changed ", n))
		f.must(s)
	}
}

func BenchmarkAfterRestart(b *testing.B) {
	f := newFixture(b)
	dir := b.TempDir()
	manyFiles(b, dir)
	s := f.client(dir)
	f.must(s)
	for b.Loop() {
		f.restart()
		f.must(s)
	}
}
