package op

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/moby/buildkit/solver/pb"
)

// TestMountTargets: relative targets are below the working directory, and what
// lies below another mount is mounted after it.
func TestMountTargets(t *testing.T) {
	t.Parallel()
	for cwd, want := range map[string][]string{
		"/root/": {"/a", "/root/rel", "/root/rel/x"},
		"":       {"/a", "/rel", "/root/rel/x"},
	} {
		m := newMounting(&ExecConfig{}, schedule.Job{}, nil)
		m.cwd = cwd
		var mounts []*pb.Mount
		for _, dest := range []string{"/root/rel/x", "rel/../rel", "/a/"} {
			mounts = append(mounts, &pb.Mount{Dest: dest, MountType: pb.MountType_TMPFS, Input: -1})
		}
		if err := m.all(t.Context(), mounts); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, mt := range m.mounts {
			got = append(got, mt.Target)
		}
		if !slices.Equal(got, want) {
			t.Errorf("in %q: got %q, want %q", cwd, got, want)
		}
	}
}

// TestSwappedSelector puts a link to a directory of the host in the place of what a
// mount shows, as a step could that shares the cache mount.
func TestSwappedSelector(t *testing.T) {
	t.Parallel()
	cache, host := t.TempDir(), t.TempDir()
	dir := filepath.Join(cache, "dir")
	err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "f"), []byte("cache"), 0o644),
		os.WriteFile(filepath.Join(host, "f"), []byte("host"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	m := newMounting(&ExecConfig{}, schedule.Job{}, nil)
	source, err := m.below(cache, "dir")
	if err != nil {
		t.Fatal(err)
	}
	swap := func(target string) {
		if err := errors.Join(os.Rename(dir, dir+".old"), os.Symlink(target, dir)); err != nil {
			t.Fatal(err)
		}
	}
	swap(host)
	if got, err := os.ReadFile(filepath.Join(source, "f")); err != nil || string(got) != "cache" {
		t.Errorf("the mount shows %q, %v", got, err)
	}
	// A link that is there before leads to what is in the tree.
	for _, selector := range []string{"dir", "/dir", "../../dir", "dir/../../../dir"} {
		if source, err := m.below(cache, selector); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %s, error %v", selector, source, err)
		}
	}
	if err := os.MkdirAll(filepath.Join(cache, host), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cache, host, "f"), []byte("below"), 0o644); err != nil {
		t.Fatal(err)
	}
	source, err = m.below(cache, "dir")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(source, "f")); err != nil || string(got) != "below" {
		t.Errorf("the link leads to %q, %v", got, err)
	}
	m.unmount()
	if _, err := os.Stat(source); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", source, err)
	}
}

// TestCacheNames: whatever an id is, it names one cache mount and no path.
func TestCacheNames(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, id := range []string{"", "a", "../..", "../../a", "/", "/etc", "a/../b", "a\x00b", strings.Repeat("x", 1<<16)} {
		name := CacheMount{ID: id}.name(0)
		if other, ok := seen[name]; ok {
			t.Errorf("%q and %q are one: %s", id, other, name)
		}
		seen[name] = id
		if strings.Contains(name, "..") || strings.ContainsAny(name, "\x00") || filepath.IsAbs(name) || len(name) > 200 {
			t.Errorf("%.20q: %.80q", id, name)
		}
	}
}
