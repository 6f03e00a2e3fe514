package snapshotter

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

func TestHostileNames(t *testing.T) {
	t.Parallel()
	s := open(t, Config{})
	for _, name := range []string{"", "a\x00b", strings.Repeat("x", maxName+1)} {
		if _, err := s.Prepare(background, name, ""); !errdefs.IsInvalidArgument(err) {
			t.Errorf("prepare %.20q: %v", name, err)
		}
	}
	outside := filepath.Join(s.root, "..", "outside")
	for _, name := range []string{"../outside", "../../outside", "/etc/passwd", ".", "..", outside, "a//b", "\xff\xfe", strings.Repeat("x", maxName-len("view-"))} {
		layer(t, s, name, "", "file")
		if got := files(t, s, name); got != "file" {
			t.Errorf("%q shows %q", name, got)
		}
		remove(t, s, name)
	}
	if _, err := os.Lstat(outside); !os.IsNotExist(err) {
		t.Errorf("outside of the root: %v", err)
	}
	if n := dirs(t, s); n != 0 {
		t.Errorf("%d directories", n)
	}
}

func TestHostileLabels(t *testing.T) {
	t.Parallel()
	s := open(t, Config{})
	many := map[string]string{}
	for i := range 300 {
		many[fmt.Sprint("label", i)] = strings.Repeat("v", 4000)
	}
	for _, labels := range []map[string]string{{"long": strings.Repeat("v", 4096)}, many} {
		if _, err := s.Prepare(background, "key", "", snapshots.WithLabels(labels)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("prepare: %v", err)
		}
	}
	layer(t, s, "x", "", "x")
	if _, err := s.Update(background, snapshots.Info{Name: "x", Labels: many}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("update: %v", err)
	}
	if _, err := s.Update(background, snapshots.Info{Name: "x"}, "parent"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("update the parent: %v", err)
	}
	err := s.Walk(background, nil, "labels.==")
	if err == nil {
		t.Error("a bad filter is none")
	}
	ref := map[string]string{snapshots.LabelSnapshotRef: strings.Repeat("x", 4000)}
	if _, err := s.Prepare(background, "ns/1/"+strings.Repeat("y", 100), "", snapshots.WithLabels(ref)); err != nil {
		t.Errorf("a long target: %v", err)
	}
}

// Many use few names at once. Whatever happens, the tables and the disk agree
// at the end, and on what a restart finds.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	s := open(t, Config{})
	layer(t, s, "ns/1/base", "", "base")
	kept := keep(t, s, "ns", "base")
	expected := func(err error) bool {
		return err == nil || errdefs.IsAlreadyExists(err) || errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) || errdefs.IsInvalidArgument(err)
	}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(worker)))
			var sn snapshots.Snapshotter = s
			base := "ns/1/base"
			if worker%2 == 1 {
				sn, base = s.Private(), kept
			}
			for range 150 {
				name := func() string { return fmt.Sprintf("ns/2/n%d", r.IntN(6)) }
				parent := []string{base, "", name()}[r.IntN(3)]
				var err error
				switch r.IntN(7) {
				case 0:
					_, err = sn.Prepare(background, name(), parent)
				case 1:
					_, err = sn.View(background, name(), parent)
				case 2:
					err = sn.Commit(background, name(), name())
				case 3:
					err = sn.Remove(background, name())
				case 4:
					_, err = sn.Usage(background, name())
				case 5:
					_, err = sn.Mounts(background, name())
				case 6:
					err = s.offerSome(r, name())
				}
				if !expected(err) && !errors.Is(err, os.ErrNotExist) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	used := map[*node]bool{}
	for _, sp := range s.spaces() {
		for name, e := range sp.entries {
			children := 0
			for _, other := range sp.entries {
				if other.parent == name {
					children++
				}
			}
			if children != e.children {
				t.Errorf("%s has %d children, counted %d", name, children, e.children)
			}
			for _, n := range e.node.chain() {
				used[n] = true
			}
		}
	}
	if n := dirs(t, s); n != len(used) || n != len(s.nodes) {
		t.Errorf("%d directories, %d used, %d known", n, len(used), len(s.nodes))
	}
	s2 := open(t, Config{Root: killed(t, s)})
	if walk(t, s) != walk(t, s2) || walk(t, s.Private()) != walk(t, s2.Private()) || dirs(t, s2) != len(used) {
		t.Error("another state after a restart")
	}
}

// offerSome makes an alias of a private snapshot.
func (s *Snapshotter) offerSome(r *rand.Rand, name string) error {
	labels, withdraw, err := s.Offer("", name, "target")
	if err != nil {
		return err
	}
	defer withdraw()
	_, err = s.Prepare(background, fmt.Sprintf("ns/2/n%d", r.IntN(6)), []string{"", "ns/1/base"}[r.IntN(2)], snapshots.WithLabels(labels))
	return err
}
