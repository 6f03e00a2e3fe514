package integration

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-build/kiln/integration/testbed"
)

// TestLazyEmbedded: without any containerd, a base that can be pulled lazily is
// fetched only as far as it is read, also by daemons that come later. What is
// made of it is whole. At the end nothing is mounted, and no process is left.
func TestLazyEmbedded(t *testing.T) {
	t.Parallel()
	for _, format := range []testbed.LazyFormat{testbed.EStargz, testbed.ZstdChunked} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			lazyEmbedded(&bed{t, testbed.StartDaemon(t, "--backend", "embedded", "--lazy-background-fetch=false"), nil}, format)
		})
	}
}

func lazyEmbedded(b *bed, format testbed.LazyFormat) {
	base, counted := b.lazyBase(format)
	text := "-- Dockerfile --\nFROM " + counted.Host + "/" + base.name + " AS base\nRUN wc -c /noise/1 > /app && rm /noise/3\n"
	app := b.files(text + "FROM " + counted.Host + "/" + base.name + "\nCOPY --from=base /app /copied\nRUN cat /copied\n")
	tag := registry.Host + "/app-" + base.name
	said := b.kiln("build", "--output", "type=image,push=true,name="+tag, app).stderr
	if !strings.Contains(said, "524288 /noise/1") {
		b.Errorf("the build says\n%s", said)
	}
	base.part(b, counted, "build")
	b.must(b.daemon.Stop())
	b.nothingLeft()
	b.daemon.Start(b)
	if said := b.kiln("build", app).stderr; strings.Count(said, "CACHED") < 3 {
		b.Errorf("after a restart it says\n%s", said)
	}
	b.must(b.daemon.Kill())
	b.daemon.Start(b)
	more := b.files(text + "RUN cat /app && wc -c /noise/2 && ! test -e /noise/3\n")
	if said := b.kiln("build", more).stderr; !strings.Contains(said, "524288 /noise/2") {
		b.Errorf("after a crash it says\n%s", said)
	}
	base.part(b, counted, "all builds")
	tar := filepath.Join(b.TempDir(), "app.tar")
	b.kiln("build", "--output", "type=oci,dest="+tar, app)
	list := b.run(exec.Command("tar", "tf", tar)).stdout
	for _, d := range base.digests {
		if !strings.Contains(list, strings.TrimPrefix(d, "sha256:")) {
			b.Errorf("the archive lacks layer %s", d)
		}
	}
	b.kiln("prune", "--all")
	b.must(b.daemon.Stop())
	b.nothingLeft()
}

// lazyImage is an image of 20 MB that can be pulled lazily.
type lazyImage struct {
	name    string
	digests []string
	size    int64
}

// lazyBase pushes one, and counts what is fetched of it.
func (b *bed) lazyBase(format testbed.LazyFormat) (lazyImage, *testbed.Counter) {
	b.Helper()
	img, err := testbed.Busybox()
	if err == nil {
		img, err = testbed.WithNoise(img, 40, 512<<10)
	}
	if err == nil {
		img, err = testbed.Lazy(img, format)
	}
	b.must(err)
	base := lazyImage{name: "lazy-" + string(format) + ":1"}
	b.must(registry.PushImage(base.name, img))
	base.digests, base.size, err = testbed.LayerDigests(img)
	b.must(err)
	counted := registry.Count()
	b.Cleanup(counted.Close)
	return base, counted
}

// part fails unless a part of the image was fetched, a quarter at most.
func (i lazyImage) part(b *bed, from *testbed.Counter, what string) {
	b.Helper()
	n := from.Fetched(i.digests...)
	b.Logf("%s: %d bytes of %d fetched", what, n, i.size)
	if n == 0 || n > i.size/4 {
		b.Errorf("%s: %d bytes of the base's %d were fetched", what, n, i.size)
	}
}

// nothingLeft fails if something of a daemon that has ended is mounted or runs.
func (b *bed) nothingLeft() {
	b.Helper()
	if left, err := testbed.Mounts(b.daemon.Dir); err != nil || len(left) > 0 {
		b.Errorf("mounted: %v, %v", left, err)
	}
	b.must(testbed.Eventually(10*time.Second, func() error {
		left, err := testbed.Processes(b.daemon.Dir)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left running: %v", left)
		}
		return err
	}))
}
