package layer

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/idmap"
)

const shift = 100000

func remapped(t *testing.T) *idmap.Map {
	t.Helper()
	ids, err := idmap.Open(fmt.Sprintf("0:%d:65536", shift))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ids.Close() })
	return ids
}

func owners(t *testing.T, names ...string) (found []string) {
	t.Helper()
	for _, name := range names {
		fi, err := os.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		st := fi.Sys().(*syscall.Stat_t)
		found = append(found, fmt.Sprintf("%d:%d", st.Uid, st.Gid))
	}
	return found
}

// v2 is a file capability (cap_net_bind_service=ep) as everybody writes it, v3 one that
// counts in a namespace whose root is the host's user 100000.
const (
	v2 = "0100000200040000000000000000000000000000"
	v3 = "0100000300040000000000000000000000000000a0860100"
)

// TestRemappedLayer: what a process with other users makes in a tree is what everybody
// else would, and so is the layer.
func TestRemappedLayer(t *testing.T) {
	for _, backend := range []string{"overlayfs", "native", "host"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			ctx, s := openOn(t, backend)
			ids := remapped(t)
			base := build(t, ctx, s, nil, func(dir string) {
				write(t, dir+"/theirs", "1")
				write(t, dir+"/gone", "1")
				if err := os.Chown(dir+"/theirs", 33, 34); err != nil {
					t.Fatal(err)
				}
			})
			fill := func(dir, capability string, chown func(name string, uid, gid int) error) error {
				for _, name := range []string{dir + "/new", dir + "/user"} {
					if err := os.WriteFile(name, []byte("1"), 0o644); err != nil {
						return err
					}
				}
				if err := chown(dir+"/user", 1, 2); err != nil {
					return err
				}
				if err := os.Chmod(dir+"/theirs", 0o4700); err != nil { // copied up
					return err
				}
				value, err := hex.DecodeString(capability)
				if err != nil {
					return err
				}
				if err := unix.Setxattr(dir+"/new", "security.capability", value, 0); err != nil {
					return err
				}
				if err := os.Remove(dir + "/gone"); err != nil {
					return err
				}
				for _, name := range []string{dir + "/new", dir + "/user", dir} {
					if err := os.Chtimes(name, epoch, epoch); err != nil {
						return err
					}
				}
				return nil
			}
			want := build(t, ctx, s, base, func(dir string) {
				if err := fill(dir, v2, os.Chown); err != nil {
					t.Fatal(err)
				}
			})
			w, err := s.NewWorkspace(ctx, base)
			if err != nil {
				t.Fatal(err)
			}
			dir, err := w.DirFor(ids)
			if err != nil {
				t.Fatal(err)
			}
			err = ids.Do(func() error {
				// The kernel makes the second version the third, of a process in the namespace.
				return fill(dir, v3, func(name string, uid, gid int) error { return os.Chown(name, shift+uid, shift+gid) })
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := owners(t, dir+"/theirs", dir+"/new", dir+"/user"); strings.Join(got, " ") != "100033:100034 100000:100000 100001:100002" {
				t.Errorf("the process' host sees the owners %v", got)
			}
			if got := capability(t, dir+"/new"); got != v3 {
				t.Errorf("the capability doesn't count for the process: %s", got)
			}
			got, err := w.Commit(ctx, Meta{})
			if err != nil {
				t.Fatal(err)
			}
			for l, name := range map[*Layer]string{want: "usual", got: "remapped"} {
				view, release, err := s.Mount(ctx, l)
				if err != nil {
					t.Fatal(err)
				}
				if got := owners(t, view, view+"/theirs", view+"/new", view+"/user"); strings.Join(got, " ") != "0:0 33:34 0:0 1:2" {
					t.Errorf("%s: owners %v", name, got)
				}
				if got := capability(t, view+"/new"); got != v2 {
					t.Errorf("%s: capability %s", name, got)
				}
				release()
			}
			wantBlobs, err := s.Blobs(ctx, want, Compression{}, event.Progress{})
			if err != nil {
				t.Fatal(err)
			}
			gotBlobs, err := s.Blobs(ctx, got, Compression{}, event.Progress{})
			if err != nil {
				t.Fatal(err)
			}
			if got, want := gotBlobs[len(gotBlobs)-1].Desc.Digest, wantBlobs[len(wantBlobs)-1].Desc.Digest; got != want {
				t.Errorf("the layer's blob is %s, and without other users %s", got, want)
			}
		})
	}
}

func capability(t *testing.T, name string) string {
	t.Helper()
	buf := make([]byte, 64)
	n, err := unix.Getxattr(name, "security.capability", buf)
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(buf[:n])
}

// TestRemappedView: a layer is shown to everybody with the owners that they know.
func TestRemappedView(t *testing.T) {
	ctx, s := open(t)
	ids := remapped(t)
	base := build(t, ctx, s, nil, func(dir string) { write(t, dir+"/a", "1") })
	top := build(t, ctx, s, base, func(dir string) { write(t, dir+"/b", "1") })
	for _, l := range []*Layer{nil, base, top} {
		usual, release, err := s.Mount(ctx, l)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		dir, release, err := s.MountFor(ctx, l, ids)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		if got := owners(t, usual, dir); strings.Join(got, " ") != "0:0 100000:100000" {
			t.Errorf("layer %s: owners %v", l.name(), got)
		}
		err = ids.Do(func() error { return os.WriteFile(filepath.Join(dir, "x"), nil, 0o600) })
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("write to layer %s: %v", l.name(), err)
		}
	}
	if dir, release, err := s.MountFor(ctx, top, ids); err != nil {
		t.Error(err)
	} else {
		release()
		if got := owners(t, dir+"/a", dir+"/b"); strings.Join(got, " ") != "100000:100000 100000:100000" {
			t.Errorf("owners %v", got)
		}
	}
}

// TestRemappedWorkspace: a tree has one kind of users at a time, and afterwards others.
func TestRemappedWorkspace(t *testing.T) {
	ctx, s := open(t)
	ids := remapped(t)
	seed := build(t, ctx, s, nil, func(dir string) { write(t, dir+"/a", "1") })
	one, err := s.OpenWorkspace(ctx, "shared", seed)
	if err != nil {
		t.Fatal(err)
	}
	two, err := s.OpenWorkspace(ctx, "shared", seed)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := one.DirFor(ids)
	if err != nil {
		t.Fatal(err)
	}
	if err := ids.Do(func() error { return os.WriteFile(dir+"/b", nil, 0o644) }); err != nil {
		t.Fatal(err)
	}
	if again, err := two.DirFor(ids); err != nil || again != dir {
		t.Errorf("the same users have %q, then %q (%v)", dir, again, err)
	}
	if err := two.Unmount(); err != nil {
		t.Fatal(err)
	}
	if _, err := two.Dir(ctx); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("two kinds of users: %v", err)
	}
	if err := one.Unmount(); err != nil {
		t.Fatal(err)
	}
	if dir, err = two.Dir(ctx); err != nil {
		t.Fatal(err)
	}
	if got := owners(t, dir, dir+"/a", dir+"/b"); strings.Join(got, " ") != "0:0 0:0 0:0" {
		t.Errorf("owners %v", got)
	}
	if err := two.Unmount(); err != nil {
		t.Fatal(err)
	}
}

// TestRemapNotPossible: what can't be shown to other users is refused, not shown with
// wrong owners or without its files.
func TestRemapNotPossible(t *testing.T) {
	_, s := open(t)
	ids := remapped(t)
	root := t.TempDir()
	for _, name := range []string{"lower/lazy", "upper", "work", "at"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	lazy := filepath.Join(root, "lower/lazy")
	if err := unix.Mount("tmpfs", lazy, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(lazy, unix.MNT_DETACH)
	for want, mounts := range map[string][]mount.Mount{
		"lower/lazy, which is a mount of its own": {{Type: "overlay", Options: []string{
			"lowerdir=" + lazy + ":" + root + "/lower", "upperdir=" + root + "/upper", "workdir=" + root + "/work"}}},
		"fuse3.fuse-overlayfs": {{Type: "fuse3.fuse-overlayfs", Source: "overlay"}},
		"2 mounts":             {{Type: "bind", Source: root}, {Type: "bind", Source: root}},
		"/proc":                {{Type: "bind", Source: "/proc"}},
	} {
		err := s.mountFor(ids, mounts, root+"/at")
		if err == nil {
			unix.Unmount(root+"/at", unix.MNT_DETACH)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestCommonDir(t *testing.T) {
	for want, dirs := range map[string][]string{
		"/a/b": {"/a/b"},
		"/a":   {"/a/b", "/a/bc"},
		"/":    {"/a/b", "/c"},
		"/s":   {"/s/12/fs", "/s/1/fs", "/s/12/work"},
	} {
		if got := commonDir(dirs); got != want {
			t.Errorf("%v are in %s, want %s", dirs, got, want)
		}
	}
}
