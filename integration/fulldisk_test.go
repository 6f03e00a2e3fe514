package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/integration/testbed"
)

// TestFullDisk builds more than fits on the disk that the daemon's root is on.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	b := onSmallDisk(t)
	tooMuch := b.files(`
-- Dockerfile --
FROM BASE
RUN true
RUN dd if=/dev/zero of=/large bs=1M count=200
`)
	out := try(b.daemon.Client("kiln", "build", tooMuch))
	b.fails(out)
	for _, want := range []string{"Dockerfile:3", ">>> RUN dd", "No space left on device"} {
		if !strings.Contains(out.stderr, want) {
			t.Errorf("%q is not in\n%s", want, out.stderr)
		}
	}
	b.kiln("prune")
	b.build(b.files(`
-- Dockerfile --
FROM BASE
RUN dd if=/dev/zero of=/small bs=1M count=2
`))
	b.idle()
}

// TestFullDiskWhileReceiving sends a context that does not fit.
func TestFullDiskWhileReceiving(t *testing.T) {
	t.Parallel()
	b := onSmallDisk(t)
	dir := b.files(`
-- Dockerfile --
FROM scratch
COPY large /
`)
	b.must(os.WriteFile(filepath.Join(dir, "large"), make([]byte, 100<<20), 0o644))
	out := try(b.daemon.Client("kiln", "build", dir))
	b.fails(out)
	if !strings.Contains(out.stderr, "no space left on device") {
		t.Errorf("the cause is not in\n%s", out.stderr)
	}
	b.idle()
}

// onSmallDisk starts a daemon with a root that is a disk of 64 MiB, and with no
// limit of its own that it would come to before.
func onSmallDisk(t *testing.T) *bed {
	t.Helper()
	dir := testbed.Dir(t)
	testbed.Disk(t, filepath.Join(dir, "root"), 64<<20)
	return &bed{t, testbed.StartDaemonIn(t, dir, "--backend", "embedded", "--gc=false"), nil}
}
