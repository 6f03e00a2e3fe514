package snapshotter

import (
	"strings"
	"testing"

	"github.com/kiln-build/kiln/integration/testbed"
)

const block = 4096 // bytes that the smallest files take on disk

const app = `FROM BASE
RUN dd if=/dev/urandom of=/data bs=1M count=8 && rm /bin/wget
RUN echo hello > /hello
CMD ["cat", "/hello"]
`

// TestZeroCopy: the image's layers are those of the cache under other names.
func TestZeroCopy(t *testing.T) {
	t.Parallel()
	releases(t, testZeroCopy)
}

func testZeroCopy(t *testing.T, release testbed.Release) {
	b := startOn(t, release)
	said := b.build(app, "--tag", "example.test/app")
	if strings.Count(said, "sharing layer") != 2 || strings.Contains(said, "linking layer") {
		t.Errorf("the build says\n%s", said)
	}
	if out := b.container("example.test/app:latest"); out != "hello\n" {
		t.Errorf("the container says %q", out)
	}
	if out := b.container("example.test/app:latest", "ls", "/bin"); strings.Contains(out, "wget") || !strings.Contains(out, "cat") {
		t.Errorf("wget wasn't removed: %q", out)
	}
	b.settled()
	dirs, names := b.dirs(), b.snapshots()
	b.once(dirs, names, 3)
	// What containerd and what kiln say of it is what is on disk. The image's
	// manifest and config are no part of the cache.
	var du int64
	for _, r := range b.du() {
		du += r.Size
	}
	if n, blobs := du+2*block, b.blobs(); n-blobs != total(dirs) {
		t.Errorf("kiln says %d bytes with %d of blobs, directories are %d", n, blobs, total(dirs))
	}
	b.empty()
}

// once checks that layers have chain IDs, and that no directory is there twice:
// there are those of the cache, whose names are random, and the base's.
func (b *bed) once(dirs, names map[string]int64, layers int) {
	b.Helper()
	chains, counted := 0, 0
	for name, size := range names {
		if strings.HasPrefix(name, "sha256:") {
			chains++
		}
		if size > 0 {
			counted++
		}
	}
	var private int64
	for _, r := range b.du() {
		if !r.Shared {
			private += r.Size
		}
	}
	if chains != layers || counted != layers || total(names)+private != total(dirs) {
		b.Errorf("an image of %d layers is %v in %v", layers, names, dirs)
	}
}

// image is what the base, and what the RUN steps made of it, take on disk.
func (b *bed) image() (sum int64) {
	b.Helper()
	for _, r := range b.du() {
		if r.Shared {
			sum += r.Size
		}
	}
	return sum + 2*block - b.blobs()
}

// TestImageWithoutCache: an image outlasts the records that it was made of.
func TestImageWithoutCache(t *testing.T) {
	t.Parallel()
	releases(t, testImageWithoutCache)
}

func testImageWithoutCache(t *testing.T, release testbed.Release) {
	b := startOn(t, release)
	b.build(app, "--tag", "example.test/app")
	before := b.image()
	b.kiln("prune", "--all")
	b.collect()
	if left := b.du(); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
	if out := b.container("example.test/app:latest"); out != "hello\n" {
		t.Errorf("the container says %q", out)
	}
	b.collect() // what the container wrote
	if n := total(b.snapshots()); n != before || n != total(b.dirs()) {
		t.Errorf("%d bytes, were %d, on disk %d", n, before, total(b.dirs()))
	}
	b.empty()
}

// TestCacheWithoutImage: records outlast the image that was made of them, and the
// base that containerd had.
func TestCacheWithoutImage(t *testing.T) {
	t.Parallel()
	releases(t, testCacheWithoutImage)
}

func testCacheWithoutImage(t *testing.T, release testbed.Release) {
	b := startOn(t, release)
	b.ctr("images", "pull", "--plain-http", registry.Host+"/busybox:latest")
	b.build(app, "--tag", "example.test/app")
	b.ctr("images", "rm", "--sync", "example.test/app:latest", registry.Host+"/busybox:latest")
	said := b.build(app, "--tag", "example.test/app")
	if strings.Count(said, "CACHED") != 3 || strings.Count(said, "sharing layer") != 2 {
		t.Errorf("built again it says\n%s", said)
	}
	if out := b.container("example.test/app:latest"); out != "hello\n" {
		t.Errorf("the container says %q", out)
	}
	b.empty()
}

// TestBaseOfContainerd: a base that ctr pulled is used as it lies, and what is
// built on an image that was built stands on the same directories.
func TestBaseOfContainerd(t *testing.T) {
	t.Parallel()
	releases(t, testBaseOfContainerd)
}

func testBaseOfContainerd(t *testing.T, release testbed.Release) {
	b := startOn(t, release)
	b.ctr("images", "pull", "--plain-http", registry.Host+"/busybox:latest")
	if n := len(b.dirs()); n != 1 {
		t.Fatalf("%d directories for an image of one layer", n)
	}
	b.build(app, "--tag", "example.test/app")
	b.build("FROM example.test/app\nRUN cat /hello > /again\nCMD [\"cat\", \"/again\"]\n", "--tag", "example.test/second")
	if out := b.container("example.test/second:latest"); out != "hello\n" {
		t.Errorf("the container says %q", out)
	}
	b.settled()
	b.once(b.dirs(), b.snapshots(), 4)
	b.empty()
}

// TestOtherSnapshotter: with containerd's own, files are linked, which is said.
func TestOtherSnapshotter(t *testing.T) {
	t.Parallel()
	releases(t, testOtherSnapshotter)
}

func testOtherSnapshotter(t *testing.T, release testbed.Release) {
	b := startOn(t, release)
	b.build(app, "--output", "type=cacheonly") // what it leaves on kiln's snapshotter goes
	b.must(b.daemon.Stop())
	for i, a := range b.daemon.Args {
		if a == "--snapshotter" {
			b.daemon.Args[i+1] = "overlayfs"
		}
	}
	b.daemon.Start(t)
	said := b.build(app, "--tag", "example.test/app")
	if strings.Count(said, "linking layer") != 2 || strings.Contains(said, "sharing layer") {
		t.Errorf("the build says\n%s", said)
	}
	b.run(b.containerd.Run("example.test/app:latest", "test", "-s", "/hello"))
	b.empty()
}
