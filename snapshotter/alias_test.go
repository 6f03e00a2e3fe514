package snapshotter

import (
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// publish does what a client of containerd does with an offer: containerd adds
// its own prefix to the keys.
func publish(t *testing.T, s *Snapshotter, namespace, name, parent, target string) error {
	t.Helper()
	labels, withdraw, err := s.Offer(namespace, name, target)
	if err != nil {
		t.Fatal(err)
	}
	defer withdraw()
	_, err = s.Prepare(background, "ns/77/extract-"+target, parent, snapshots.WithLabels(labels))
	return err
}

func TestAlias(t *testing.T) {
	t.Parallel()
	s := open(t, Config{})
	layer(t, s, "ns/1/sha256:base", "", "base")
	layer(t, s, "ns/2/kiln-x", "ns/1/sha256:base", "x")
	if err := publish(t, s, "ns", "kiln-x", "ns/1/sha256:base", "sha256:top"); !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	// This is how containerd looks for it.
	if got := walk(t, s, `labels."containerd.io/snapshot.ref"==sha256:top,parent=="ns/1/sha256:base"`); got != "ns/77/sha256:top" {
		t.Fatalf("found %q", got)
	}
	info, err := s.Stat(background, "ns/77/sha256:top")
	if err != nil || info.Kind != snapshots.KindCommitted || info.Labels[LabelShares] != "ns/2/kiln-x" || info.Labels[LabelAlias] != "" {
		t.Fatalf("%+v, %v", info, err)
	}
	if n := dirs(t, s); n != 2 {
		t.Errorf("%d directories", n)
	}
	if got := files(t, s, "ns/77/sha256:top"); got != "base x" {
		t.Errorf("files %q", got)
	}
	// Its bytes count once, whichever name goes first.
	whole := usage(t, s, "ns/2/kiln-x")
	if u := usage(t, s, "ns/77/sha256:top"); u != (snapshots.Usage{}) || whole.Size == 0 {
		t.Errorf("usage %+v and %+v", whole, u)
	}
	remove(t, s, "ns/2/kiln-x")
	if u := usage(t, s, "ns/77/sha256:top"); u != whole {
		t.Errorf("usage %+v, was %+v", u, whole)
	}
	if got := files(t, s, "ns/77/sha256:top"); got != "base x" {
		t.Errorf("files %q", got)
	}
	remove(t, s, "ns/77/sha256:top", "ns/1/sha256:base")
	if n := dirs(t, s); n != 0 {
		t.Errorf("%d directories", n)
	}
}

func TestAliasOfAPrivateSnapshot(t *testing.T) {
	t.Parallel()
	s := open(t, Config{})
	p := s.Private()
	layer(t, s, "ns/1/sha256:base", "", "base")
	kept := keep(t, s, "ns", "sha256:base")
	layer(t, p, "one", kept, "one")
	layer(t, p, "two", "one", "two")
	if got := walk(t, s); got != "ns/1/sha256:base" {
		t.Errorf("containerd sees %q", got)
	}
	if err := publish(t, s, "", "two", "ns/1/sha256:base", "sha256:top"); err != nil {
		t.Errorf("on a parent without the layer between them: %v", err)
	}
	remove(t, s, "ns/77/extract-sha256:top")
	for _, l := range [][3]string{{"one", "ns/1/sha256:base", "sha256:one"}, {"two", "ns/77/sha256:one", "sha256:two"}} {
		if err := publish(t, s, "", l[0], l[1], l[2]); !errdefs.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	if got := files(t, s, "ns/77/sha256:two"); got != "base one two" {
		t.Errorf("files %q", got)
	}
	whole := usage(t, p, "two")
	if u := usage(t, s, "ns/77/sha256:two"); u != whole || whole.Size == 0 {
		t.Errorf("usage %+v, in containerd %+v", whole, u)
	}
	if u := usage(t, p, kept); u.Size != 0 {
		t.Errorf("what is kept counts: %+v", u)
	}
	// The image goes, then the record; neither breaks the other.
	remove(t, s, "ns/77/sha256:two", "ns/77/sha256:one", "ns/1/sha256:base")
	if got := files(t, p, "two"); got != "base one two" {
		t.Errorf("files %q", got)
	}
	if u := usage(t, p, "two"); u != whole {
		t.Errorf("usage %+v, was %+v", u, whole)
	}
	remove(t, p, "two", "one", kept)
	if n := dirs(t, s); n != 0 {
		t.Errorf("%d directories", n)
	}
}

// Labels may come from an image, so only a ticket makes an alias, and only what
// it was given for.
func TestAliasIsRefused(t *testing.T) {
	t.Parallel()
	s := open(t, Config{})
	layer(t, s, "ns/1/base", "", "base")
	layer(t, s, "ns/2/other", "", "other")
	layer(t, s, "ns/3/x", "ns/1/base", "x")
	prepare := func(labels map[string]string, parent, target string) {
		t.Helper()
		labels[snapshots.LabelSnapshotRef] = target
		if _, err := s.Prepare(background, "ns/9/key", parent, snapshots.WithLabels(labels)); err != nil {
			t.Fatalf("want a snapshot to fill, not %v", err)
		}
		remove(t, s, "ns/9/key")
	}
	prepare(map[string]string{LabelAlias: "x"}, "ns/1/base", "sha256:a")
	prepare(map[string]string{LabelAlias: "ns/3/x"}, "ns/1/base", "sha256:a")
	labels, withdraw, err := s.Offer("ns", "x", "sha256:a")
	if err != nil {
		t.Fatal(err)
	}
	prepare(map[string]string{LabelAlias: labels[LabelAlias]}, "ns/1/base", "sha256:b")
	prepare(map[string]string{LabelAlias: labels[LabelAlias]}, "ns/2/other", "sha256:a")
	prepare(map[string]string{LabelAlias: labels[LabelAlias]}, "", "sha256:a")
	withdraw()
	withdraw()
	prepare(map[string]string{LabelAlias: labels[LabelAlias]}, "ns/1/base", "sha256:a")
	if _, _, err := s.Offer("other", "x", "sha256:a"); !errdefs.IsNotFound(err) {
		t.Errorf("a snapshot of another namespace: %v", err)
	}
	if n := dirs(t, s); n != 3 {
		t.Errorf("%d directories", n)
	}
}

// An offered directory stays although its name goes.
func TestOfferKeeps(t *testing.T) {
	t.Parallel()
	s := open(t, Config{})
	layer(t, s, "ns/1/x", "", "x")
	labels, withdraw, err := s.Offer("ns", "x", "sha256:a")
	if err != nil {
		t.Fatal(err)
	}
	remove(t, s, "ns/1/x")
	if n := dirs(t, s); n != 1 {
		t.Errorf("%d directories", n)
	}
	if _, err := s.Prepare(background, "ns/2/key", "", snapshots.WithLabels(labels)); !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	withdraw()
	remove(t, s, "ns/2/sha256:a")
	if n := dirs(t, s); n != 0 {
		t.Errorf("%d directories", n)
	}
}
