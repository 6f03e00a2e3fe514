package server

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// bound removes the parts of layers that weren't used for longest from the
// library's cache, until it has no more than size bytes on disk; 0 is no bound.
// The library only ever adds, and fetches again what it doesn't find.
func bound(dir string, size int64) error {
	if size <= 0 {
		return nil
	}
	files, total, err := cached(dir)
	if total <= size {
		return err
	}
	slices.SortFunc(files, func(a, b cachedFile) int { return cmp.Compare(a.used, b.used) })
	// Some room, so that this isn't done again at once.
	for _, f := range files {
		if total <= size-size/10 {
			break
		}
		if rerr := os.Remove(f.name); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
			continue
		}
		total -= f.size
	}
	return err
}

// rawLife is much longer than it takes to verify what was fetched.
const rawLife = 30 * time.Second

// forget removes what was fetched of blobs longer ago than an age. The library
// keeps that as it came: what turns out to be wrong would be wrong for ever. Parts of
// files that were verified are elsewhere.
func forget(dir string, age time.Duration) error {
	names, err := filepath.Glob(filepath.Join(dir, "httpcache", "*", "??", "*"))
	for _, name := range names {
		info, serr := os.Lstat(name)
		if serr != nil || !info.Mode().IsRegular() || time.Since(info.ModTime()) < age {
			continue
		}
		if rerr := os.Remove(name); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

type cachedFile struct {
	name string
	size int64 // on disk
	used int64 // ns
}

// cached lists the finished parts of layers: those are in
// KIND/LAYER/XX/NAME, unfinished ones in KIND/LAYER/wip.
func cached(dir string) (files []cachedFile, total int64, _ error) {
	names, err := filepath.Glob(filepath.Join(dir, "*", "*", "??", "*"))
	for _, name := range names {
		var st unix.Stat_t
		if unix.Lstat(name, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		used := max(time.Unix(st.Atim.Unix()).UnixNano(), time.Unix(st.Mtim.Unix()).UnixNano())
		files = append(files, cachedFile{name: name, size: st.Blocks * 512, used: used})
		total += st.Blocks * 512
	}
	return files, total, err
}
