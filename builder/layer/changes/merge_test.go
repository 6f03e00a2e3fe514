package changes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// stack is directories of an overlay that grows by one upper directory a time.
type stack struct {
	testing.TB
	dir    string
	uppers []string // lowest first; the first is the base
}

func newStack(t testing.TB) *stack { return &stack{TB: t, dir: t.TempDir()} }

func (s *stack) mkdir(name string) string {
	s.Helper()
	dir := filepath.Join(s.dir, name)
	must(s, os.Mkdir(dir, 0o755))
	return dir
}

// change mounts what there is so far with a new upper directory on it.
func (s *stack) change(f func(dir string)) {
	s.Helper()
	n := len(s.uppers)
	upper := s.mkdir(fmt.Sprint("upper", n))
	if n == 0 {
		f(upper)
	} else {
		work := s.mkdir(fmt.Sprint("work", n))
		s.mounted(s.uppers, fmt.Sprintf("upperdir=%s,workdir=%s,", upper, work), f)
	}
	s.uppers = append(s.uppers, upper)
}

// mounted shows directories, given lowest first.
func (s *stack) mounted(dirs []string, options string, f func(dir string)) {
	s.Helper()
	merged := filepath.Join(s.dir, "merged")
	must(s, os.MkdirAll(merged, 0o755))
	var lower []string
	for i := len(dirs) - 1; i >= 0; i-- {
		lower = append(lower, dirs[i])
	}
	must(s, unix.Mount("overlay", merged, "overlay", 0, options+"index=off,lowerdir="+strings.Join(lower, ":")))
	defer func() { must(s, unix.Unmount(merged, 0)) }()
	f(merged)
}

// tar describes a tree completely.
func (s *stack) tar(dirs []string) []byte {
	s.Helper()
	var b bytes.Buffer
	s.mounted(dirs, "", func(dir string) {
		empty := filepath.Join(s.dir, "empty")
		must(s, os.MkdirAll(empty, 0o755), Compare(context.Background(), &b, empty, dir))
	})
	return b.Bytes()
}

// check merges the upper directories from one to another, and expects the same
// tree.
func (s *stack) check(from, to int) {
	s.Helper()
	into := s.mkdir(fmt.Sprintf("into-%d-%d", from, to))
	var uppers []Upper
	for _, dir := range s.uppers[from:to] {
		uppers = append(uppers, Upper{Dir: dir, Xattrs: "trusted.overlay."})
	}
	must(s, Merge(context.Background(), into, uppers))
	dirs := append(append(append([]string{s.mkdir(fmt.Sprintf("bottom-%d-%d", from, to))}, s.uppers[:from]...), into), s.uppers[to:]...)
	want, got := s.tar(append(dirs[:1:1], s.uppers...)), s.tar(dirs)
	if !bytes.Equal(got, want) {
		s.Errorf("merged %d to %d:\n%s\nwant\n%s", from, to, strings.Join(list(s, got), "\n"), strings.Join(list(s, want), "\n"))
	}
}

func TestMerge(t *testing.T) {
	s := newStack(t)
	s.change(func(d string) {
		must(t, os.MkdirAll(d+"/dir/sub", 0o755), put(d+"/dir/a", "base"), put(d+"/dir/sub/b", "base"), put(d+"/file", "base"), put(d+"/gone", "base"))
		must(t, os.Mkdir(d+"/replaced", 0o755), put(d+"/replaced/x", "base"), os.Mkdir(d+"/attrs", 0o755))
	})
	s.change(func(d string) {
		must(t, put(d+"/new", "1"), os.Remove(d+"/gone"), put(d+"/dir/c", "1"), os.RemoveAll(d+"/replaced"), put(d+"/replaced", "file"))
		must(t, unix.Setxattr(d+"/attrs", "user.gone", []byte("1"), 0), unix.Setxattr(d+"/attrs", "user.kept", []byte("1"), 0))
	})
	s.change(func(d string) {
		must(t, os.Remove(d+"/replaced"), os.Mkdir(d+"/replaced", 0o700), put(d+"/replaced/y", "2"), os.Remove(d+"/new"), os.Mkdir(d+"/gone", 0o755))
		must(t, unix.Removexattr(d+"/attrs", "user.gone"), os.RemoveAll(d+"/dir/sub"), os.Symlink("file", d+"/link"))
	})
	s.change(func(d string) {
		must(t, os.Mkdir(d+"/dir/sub", 0o755), put(d+"/dir/sub/d", "3"), os.Link(d+"/file", d+"/hard"), unix.Mknod(d+"/pipe", unix.S_IFIFO|0o600, 0))
		must(t, os.Chmod(d, 0o711))
	})
	for from := range s.uppers {
		for to := from + 1; to <= len(s.uppers); to++ {
			s.check(from, to)
		}
	}
	if err := Merge(context.Background(), s.mkdir("foreign"), []Upper{{Dir: redirected(t), Xattrs: "trusted.overlay."}}); !errors.Is(err, ErrIncomplete) {
		t.Errorf("a directory that was moved: %v", err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Merge(ended, s.mkdir("ended"), []Upper{{Dir: s.uppers[0]}}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// redirected is an upper directory that refers to the base.
func redirected(t *testing.T) string {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/moved", 0o755), unix.Setxattr(dir+"/moved", "trusted.overlay.redirect", []byte("dir"), 0))
	return dir
}

func TestMergeRandom(t *testing.T) {
	for seed := range uint64(15) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 7))
			s := newStack(t)
			for range 6 {
				s.change(func(dir string) { scramble(rng, dir, 12) })
			}
			from := rng.IntN(5)
			s.check(from, from+2+rng.IntN(5-from))
			s.check(0, 6)
		})
	}
}
