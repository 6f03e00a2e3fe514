package chaos

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// contents describes a folder: mode and digest of each file, by path.
func (b *bed) contents(dir string) map[string]string {
	b.Helper()
	found := map[string]string{}
	b.must(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		what := ""
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			what, err = os.Readlink(path)
		case d.Type().IsRegular():
			var data []byte
			data, err = os.ReadFile(path)
			what = fmt.Sprintf("%d %x", len(data), sha256.Sum256(data))
		}
		found[name] = fmt.Sprintf("%v %s", info.Mode(), what)
		return err
	}))
	return found
}

// right builds the folder with the cache as it is and without it, and compares
// what comes out.
func (b *bed) right(dir string) {
	b.Helper()
	cached, fresh := b.TempDir(), b.TempDir()
	b.mustBuild("--output", cached, dir)
	b.mustBuild("--no-cache", "--output", fresh, dir)
	got, want := b.contents(cached), b.contents(fresh)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			b.Errorf("%s from the cache is %q, and %q made anew", name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		b.Errorf("there are %d files from the cache, and %d made anew", len(got), len(want))
	}
	for _, dir := range []string{cached, fresh} {
		b.must(os.RemoveAll(dir))
	}
}
