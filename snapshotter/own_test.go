package snapshotter

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// TestOwn: what one process uses for itself leaves nothing mounted, and nothing
// that a crash of the machine would be recognised by; it is whole after an orderly
// end, with lazy layers that are shown again.
func TestOwn(t *testing.T) {
	t.Parallel()
	shown := &shower{}
	s := open(t, Config{Lazy: shown, Own: true})
	unmounted(t, s)
	if err := pull(t, s, "file", "", "lazy"); !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	layer(t, s, "ns/2/top", "ns/1/lazy", "top")
	labels, withdraw, err := s.Offer("ns", "top", "alias")
	if err != nil {
		t.Fatal(err)
	}
	defer withdraw()
	if _, err := s.Prepare(background, "ns/3/x", "ns/1/lazy", snapshots.WithLabels(labels)); !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	if s.unsynced() {
		t.Error("something waits to be synced")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(s.root, "dirs", "*", "fs", "file"))
	if err != nil || len(found) > 0 {
		t.Errorf("still mounted: %v, %v", found, err)
	}
	if _, err := os.Stat(filepath.Join(s.root, "boot")); !os.IsNotExist(err) {
		t.Errorf("there is a mark: %v", err)
	}
	s = open(t, Config{Root: s.root, Lazy: shown, Own: true})
	for _, name := range []string{"ns/2/top", "ns/3/alias"} {
		if got := files(t, s, name); got != "file top" {
			t.Errorf("%s shows %q", name, got)
		}
	}
}
