package snapshotter

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-build/kiln/integration/testbed"
)

// TestCtr does with the snapshotter what people do with any: pull, import, run,
// restart whoever runs, remove.
func TestCtr(t *testing.T) {
	t.Parallel()
	releases(t, testCtr)
}

func testCtr(t *testing.T, release testbed.Release) {
	b := startOn(t, release)
	if out := b.ctr("version"); strings.Count(out, release.Version()) != 2 {
		t.Errorf("client and server aren't %s:\n%s", release.Version(), out)
	}
	busybox := registry.Host + "/busybox:latest"
	b.ctr("images", "pull", "--plain-http", busybox)
	if out := b.container(busybox, "echo", "pulled"); out != "pulled\n" {
		t.Errorf("the container says %q", out)
	}
	tar := filepath.Join(b.TempDir(), "app.tar")
	b.build(app, "--output", "type=oci,name=example.test/imported:1,dest="+tar)
	b.ctr("images", "import", tar)
	if out := b.container("example.test/imported:1"); out != "hello\n" {
		t.Errorf("the container says %q", out)
	}
	// A container that runs goes on while either is restarted.
	b.ctr("run", "--detach", busybox, b.name(), "sleep", "1000")
	defer b.end()
	for _, restart := range []func(){
		func() { b.must(b.daemon.Kill()); b.daemon.Start(t) },
		func() { b.must(b.daemon.Stop()); b.daemon.Start(t) },
		func() { b.containerd.Restart(t) },
	} {
		restart()
		if out := b.ctr("tasks", "exec", "--exec-id", "x", b.name(), "echo", "here"); out != "here\n" {
			t.Errorf("the container says %q", out)
		}
		if out := b.container("example.test/imported:1"); out != "hello\n" {
			t.Errorf("a new container says %q", out)
		}
		b.build(app + "RUN echo " + time.Now().String() + "\n")
	}
	if info := b.ctr("snapshots", "info", b.name()); !strings.Contains(info, "Active") {
		t.Errorf("snapshot of the container:\n%s", info)
	}
	b.end()
	b.empty()
}

// TestUnpackSideBySide: layers that containerd unpacks at the same time, on
// nothing, are put on each other when they are there. What one removes of another
// is gone.
func TestUnpackSideBySide(t *testing.T) {
	t.Parallel()
	b := start(t)
	image := registry.Host + "/side:latest"
	b.build(app+"RUN rm -r /hello && mkdir /hello && echo again > /hello/again\n", "--tag", image, "--push")
	b.empty()
	b.ctr("images", "pull", "--plain-http", image)
	if out := b.container(image, "sh", "-c", "ls -d /bin/wget /hello/*; cat /hello/again; wc -c < /data"); out != "/hello/again\nagain\n8388608\n" {
		t.Errorf("the container says %q", out)
	}
	b.collect() // what the container wrote
	b.once(b.dirs(), b.snapshots(), 4)
	b.empty()
}

// TestKilledAgainAndAgain: what a killed daemon had mounted is in nobody's way.
func TestKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	b := start(t)
	for i := range 6 {
		b.build(fmt.Sprintf("FROM BASE\nRUN echo %d > /a\nRUN cat /a > /b\n", i), "--tag", "example.test/app")
		b.must(b.daemon.Kill())
		b.daemon.Start(t)
	}
	b.container("example.test/app:latest", "cat", "/b")
	b.empty()
}

// name is that of a container, which no other containerd here has.
func (b *bed) name() string { return "kiln-" + filepath.Base(b.daemon.Dir) }

// end removes the container, if it is there.
func (b *bed) end() {
	for _, args := range [][]string{{"tasks", "kill", "-s", "KILL", b.name()}, {"tasks", "rm", "-f", b.name()}, {"containers", "rm", b.name()}} {
		_, _ = b.try(b.containerd.Ctr(args...))
	}
}

// TestStartOrder: the daemon may be there before containerd, and containerd
// before the daemon.
func TestStartOrder(t *testing.T) {
	t.Parallel()
	dir, plugin, flags := setup(t)
	home := testbed.Dir(t)
	flags = append(flags, "--containerd-address", filepath.Join(home, "containerd.sock"))
	began := make(chan *testbed.Daemon)
	go func() { began <- testbed.StartDaemonIn(t, dir, flags...) }()
	b := &bed{TB: t}
	b.must(testbed.Eventually(20*time.Second, func() error { return testbed.Answers("unix://" + filepath.Join(dir, "snapshotter.sock")) }))
	b.containerd = testbed.StartContainerdIn(t, home, plugin)
	b.daemon = <-began
	b.build(app, "--tag", "example.test/app")
	if out := b.container("example.test/app:latest"); out != "hello\n" {
		t.Errorf("the container says %q", out)
	}
	// While it is away, containerd says so and goes on.
	b.must(b.daemon.Stop())
	if _, err := b.try(b.running("example.test/app:latest")); err == nil || !strings.Contains(err.Error(), "snapshotter.sock") {
		t.Errorf("without the daemon: %v", err)
	}
	b.daemon.Start(t)
	if out := b.container("example.test/app:latest"); out != "hello\n" {
		t.Errorf("the container says %q", out)
	}
	b.empty()
}

// TestRuntimeOfContainerd has containerd start the steps, on the snapshotter.
func TestRuntimeOfContainerd(t *testing.T) {
	t.Parallel()
	releases(t, func(t *testing.T, release testbed.Release) {
		b := startOn(t, release, "--runtime", "io.containerd.runc.v2")
		b.build(app, "--tag", "example.test/app")
		if out := b.container("example.test/app:latest"); out != "hello\n" {
			t.Errorf("the container says %q", out)
		}
		b.empty()
	})
}
