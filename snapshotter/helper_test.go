package snapshotter

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"
)

var background = context.Background()

// open opens a snapshotter that is closed when the test ends; nothing may be
// left mounted below its root then.
func open(t *testing.T, cfg Config) *Snapshotter {
	t.Helper()
	if cfg.Root == "" {
		cfg.Root = t.TempDir()
	}
	s, err := Open(background, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// killed is a copy of what a killed process leaves of s.
func killed(t *testing.T, s *Snapshotter) string {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS(s.root)); err != nil {
		t.Fatal(err)
	}
	return root
}

// layer commits a snapshot with one file of that name and content.
func layer(t *testing.T, sn snapshots.Snapshotter, name, parent, file string) {
	t.Helper()
	mounts, err := sn.Prepare(background, "key-"+name, parent)
	if err != nil {
		t.Fatal(err)
	}
	within(t, mounts, func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(file), 0o644); err != nil {
			t.Fatal(err)
		}
	})
	if err := sn.Commit(background, name, "key-"+name); err != nil {
		t.Fatal(err)
	}
}

// within mounts for as long as fn runs.
func within(t *testing.T, mounts []mount.Mount, fn func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	if err := mount.All(mounts, dir); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := mount.UnmountAll(dir, unix.UMOUNT_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}()
	fn(dir)
}

// files lists what a view of the snapshot shows.
func files(t *testing.T, sn snapshots.Snapshotter, name string) string {
	t.Helper()
	mounts, err := sn.View(background, "view-"+name, name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := sn.Remove(background, "view-"+name); err != nil {
			t.Fatal(err)
		}
	}()
	var names []string
	within(t, mounts, func(dir string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	})
	return strings.Join(names, " ")
}

// keep is the private name that Keep gives a snapshot.
func keep(t *testing.T, s *Snapshotter, namespace, name string) string {
	t.Helper()
	kept, err := s.Keep(background, namespace, name)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := Kept(kept); got != name || !ok {
		t.Errorf("%s is kept as %q", name, kept)
	}
	return kept
}

// dirs counts the directories, once what is to be removed is.
func dirs(t *testing.T, s *Snapshotter) int {
	t.Helper()
	if err := s.Cleanup(background); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(s.root, "dirs"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func remove(t *testing.T, sn snapshots.Snapshotter, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := sn.Remove(background, name); err != nil {
			t.Fatal(err)
		}
	}
}

func usage(t *testing.T, sn snapshots.Snapshotter, name string) snapshots.Usage {
	t.Helper()
	u, err := sn.Usage(background, name)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// walk lists the names that Walk finds.
func walk(t *testing.T, sn snapshots.Snapshotter, filter ...string) string {
	t.Helper()
	var names []string
	err := sn.Walk(background, func(_ context.Context, info snapshots.Info) error {
		names = append(names, info.Name)
		return nil
	}, filter...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}
