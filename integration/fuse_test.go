package integration

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/kiln-build/kiln/integration/testbed"
)

const changingSteps = `
-- Dockerfile --
FROM BASE AS made
RUN mkdir -p /d/e && echo 1 > /d/e/f && echo 2 > /g && chmod -R a+rX /d
RUN rm -r /d && mkdir /d && echo 3 > /d/h && mv /g /d/g && ln /d/h /d/i
USER 1
RUN test "$(id -u)" = 1 && cat /d/h /d/i && ! test -e /d/e && ! test -e /g && ! touch /d/new
USER 0
RUN --mount=type=cache,target=/c echo 4 > /c/x; rm /d/h; cp /c/x /d/x

FROM scratch
COPY --from=made /d /d
`

// TestFuseOverlayFS builds where the program fuse-overlayfs shows the trees: on the
// layers of an image, which are unpacked, and on those that steps make, which are
// packed. The programs of a killed daemon end when the next one starts.
func TestFuseOverlayFS(t *testing.T) {
	t.Parallel()
	b := &bed{T: t, daemon: testbed.StartDaemon(t, "--backend", "embedded", "--snapshotter", "fuse-overlayfs")}
	dir, out := b.files(changingSteps), t.TempDir()
	b.build("--output", out, dir)
	if got, want := b.tree(out), map[string]string{"d/g": "2\n", "d/i": "3\n", "d/x": "4\n"}; !maps.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	image := registry.Host + "/fuse"
	b.build("--target", "made", "--push", "-t", image, dir)
	onto := b.files("-- Dockerfile --\nFROM REGISTRY/fuse\nRUN test ! -e /d/e -a ! -e /d/h -a ! -e /g && cat /d/g /d/i /d/x\n")
	b.build(onto)

	c := b.begin(b.files(longStep))
	b.must(b.daemon.Kill())
	if err := c.wait(endOfBuild); err == nil || errors.Is(err, errStillRunning) {
		t.Errorf("the client ended with %v", err)
	}
	unpacking := filepath.Join(b.daemon.Root, "unpacking", "containerd-mount1") // as if it had been killed then
	b.must(os.Mkdir(unpacking, 0o700))
	b.must(syscall.Mount("left", unpacking, "tmpfs", 0, ""))
	b.daemon.Start(t)
	b.must(testbed.Eventually(endOfBuild, b.noSteps))
	b.must(b.noMounts())
	if _, err := os.Stat(unpacking); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", unpacking, err)
	}
	out = t.TempDir()
	b.build("--output", out, dir)
	if got := b.tree(out); len(got) != 3 {
		t.Errorf("got %q", got)
	}
	b.idle()

	other := &bed{T: t, daemon: testbed.StartDaemon(t, "--backend", "embedded")}
	other.build(b.files("-- Dockerfile --\nFROM REGISTRY/fuse\nRUN test ! -e /d/e -a ! -e /d/h -a ! -e /g && cat /d/g /d/i /d/x\n"))
}
