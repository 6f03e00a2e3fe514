package snapshotter

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-build/kiln/integration/testbed"
)

// TestForcedRemovals: images are removed at once, the cache is pruned of all and
// garbage is collected, before, between and while others need what they share.
// Neither an image, nor a container, nor a build, nor a record loses anything.
func TestForcedRemovals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		release     testbed.Release
		snapshotter string
	}{
		"kiln":          {testbed.Containerd2, "kiln"},
		"overlayfs":     {testbed.Containerd2, "overlayfs"},
		"overlayfs 1.7": {testbed.Containerd17, "overlayfs"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, plugin, flags := setup(t)
			flags[slices.Index(flags, "kiln")] = c.snapshotter
			b := &bed{TB: t, containerd: c.release.StartIn(t, testbed.Dir(t), plugin), env: []string{"CONTAINERD_SNAPSHOTTER=" + c.snapshotter}}
			b.daemon = testbed.StartDaemonIn(t, dir, append(flags, "--containerd-address", b.containerd.Socket)...)
			b.imageOutlastsCache()
			b.cacheOutlastsImage()
			b.containerOutlastsBoth()
			b.buildOutlastsBoth()
			b.removedMeanwhile()
			b.empty()
		})
	}
}

const removed = "example.test/removed:1"

func (b *bed) says(image string) {
	b.Helper()
	if out := b.container(image); out != "hello\n" {
		b.Errorf("the container of %s says %q", image, out)
	}
}

// remove removes an image as "nerdctl rmi" does.
func (b *bed) remove(image string) {
	b.Helper()
	b.ctr("images", "rm", "--sync", image)
}

// prune removes the whole cache, as "nerdctl builder prune --all" does, and what
// containerd then can.
func (b *bed) prune() {
	b.Helper()
	b.kiln("prune", "--all")
	b.collect()
}

func (b *bed) imageOutlastsCache() {
	b.Helper()
	b.build(app, "--tag", removed)
	b.prune()
	if left := b.du(); len(left) > 0 {
		b.Errorf("left: %+v", left)
	}
	b.says(removed)
	if said := b.build("FROM "+removed+"\nRUN cat /hello > /again\n", "--tag", "example.test/second"); strings.Contains(said, "ERROR") {
		b.Errorf("built on it:\n%s", said)
	}
	b.remove("example.test/second:latest")
	b.says(removed)
	b.remove(removed)
	b.prune()
}

func (b *bed) cacheOutlastsImage() {
	b.Helper()
	b.build(app, "--tag", removed)
	for range 2 {
		b.remove(removed)
		b.collect()
		if said := b.build(app, "--tag", removed); strings.Count(said, "CACHED") != 3 {
			b.Errorf("built again it says\n%s", said)
		}
		b.says(removed)
	}
}

func (b *bed) containerOutlastsBoth() {
	b.Helper()
	b.ctr("run", "--detach", removed, b.name(), "sleep", "1000")
	defer b.end()
	b.remove(removed)
	b.prune()
	for _, step := range []func(){func() {}, func() { b.build(app, "--tag", removed) }, func() { b.remove(removed); b.prune() }} {
		step()
		if out := b.ctr("tasks", "exec", "--exec-id", "x", b.name(), "cat", "/hello"); out != "hello\n" {
			b.Errorf("the container says %q", out)
		}
	}
}

func (b *bed) buildOutlastsBoth() {
	b.Helper()
	b.build(app, "--tag", removed)
	mark := "building # " + b.name()
	build := b.building("FROM "+removed+"\nRUN sleep 3; cat /hello > /again # "+mark+"\nRUN cat /again\n", "--tag", "example.test/second")
	done := make(chan error, 1)
	go func() { done <- second(b.try(build)) }()
	b.must(testbed.Eventually(20*time.Second, func() error { return running(mark) }))
	b.remove(removed)
	b.prune()
	b.must(<-done)
	if out := b.container("example.test/second:latest", "cat", "/again"); out != "hello\n" {
		b.Errorf("the container says %q", out)
	}
}

// removedMeanwhile builds images of the same layers and runs each, while the others
// and all records are removed.
func (b *bed) removedMeanwhile() {
	b.Helper()
	const images = 6
	name := func(i int) string { return fmt.Sprintf("example.test/meanwhile:%d", i) }
	var mu sync.Mutex
	current, stop := 0, false
	var wg sync.WaitGroup
	wg.Go(func() {
		for rounds := 0; ; rounds++ {
			mu.Lock()
			now, end := current, stop
			mu.Unlock()
			if end {
				b.Logf("removed %d times meanwhile", rounds)
				return
			}
			for i := range now {
				_, _ = b.try(b.onKiln(b.containerd.Ctr("images", "rm", "--sync", name(i)))) // it may be gone
			}
			if _, err := b.try(b.daemon.Client("kiln", "prune", "--all")); err != nil {
				b.Error(err)
			}
		}
	})
	defer func() {
		mu.Lock()
		stop = true
		mu.Unlock()
		wg.Wait()
	}()
	for i := range images {
		mu.Lock()
		current = i
		mu.Unlock()
		b.build(app, "--tag", name(i))
		b.says(name(i))
	}
}
