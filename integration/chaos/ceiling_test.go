package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kiln-build/kiln/integration/testbed"
)

const mib = 1 << 20

// onSmallDisk starts a daemon with a root that is a disk of that many bytes.
func onSmallDisk(t *testing.T, bytes int64, args ...string) *bed {
	t.Helper()
	dir := testbed.Dir(t)
	disk, root := filepath.Join(dir, "disk"), filepath.Join(dir, "root")
	for _, step := range []func() error{
		func() error { return os.WriteFile(disk, nil, 0o600) },
		func() error { return os.Truncate(disk, bytes) },
		func() error { return os.Mkdir(root, 0o700) },
		func() error { return exec.Command("mkfs.ext4", "-q", "-m", "0", disk).Run() },
		func() error { return exec.Command("mount", "-o", "loop", disk, root).Run() },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := exec.Command("umount", root).Run(); err != nil {
			t.Errorf("unmounting the small disk: %v", err)
		}
	})
	return &bed{t, testbed.StartDaemonIn(t, dir, append([]string{"--backend", "embedded"}, args...)...), nil}
}

// highest watches how much of the daemon's disk is used until stop is called,
// which returns the most that it was, in bytes, over what it was at first.
func (b *bed) highest() (stop func() int64) {
	used := func() int64 {
		var st syscall.Statfs_t
		if syscall.Statfs(b.daemon.Root, &st) != nil {
			return 0
		}
		return int64(st.Blocks-st.Bfree) * st.Bsize
	}
	var most atomic.Int64
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			most.Store(max(most.Load(), used()))
			select {
			case <-end:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() int64 { close(end); <-done; return most.Load() }
}

// slowly writes so many MiB at 30 MiB a second or less.
func slowly(file string, count int) string {
	return fmt.Sprintf("for i in $(seq %d); do dd if=/dev/urandom bs=1M count=1 >> %s 2> /dev/null; sleep 0.03; done", count, file)
}

// TestCeiling lets steps write more than the daemon may have on its disk: they
// fail, the limit holds, and what they wrote is gone.
func TestCeiling(t *testing.T) {
	t.Parallel()
	const limit = 100 * mib
	b := onSmallDisk(t, 300*mib, "--gc-max-used-space", "100MB")
	watch := b.highest()
	for name, text := range map[string]string{
		"a step":        "RUN " + slowly("/large", 250) + "\n",
		"a cache mount": "RUN --mount=type=cache,target=/c " + slowly("/c/large", 250) + "\n",
	} {
		out, err := b.build(b.context(text))
		if err == nil {
			t.Errorf("%s: the build succeeded", name)
		}
		for _, want := range []string{"no room to build", "of at most 100MiB (maxUsedSpace) are used", "kiln du", "step \""} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: %q is not in\n%s", name, want, out)
			}
		}
		b.settled()
		if u := total(b.du()); name == "a step" && u > 40*mib {
			t.Errorf("%s: %d bytes are used afterwards", name, u)
		}
	}
	if most := watch(); most > limit+30*mib {
		t.Errorf("%d MiB were used", most/mib)
	}
	b.mustBuild(b.context("RUN " + slowly("/fits", 40) + "\n"))
	b.clean()
}

// TestCeilingEvicts builds for long what fits, although all of it together
// doesn't.
func TestCeilingEvicts(t *testing.T) {
	t.Parallel()
	b := onSmallDisk(t, 300*mib, "--gc-max-used-space", "100MB")
	watch := b.highest()
	dir := b.context("")
	for i := range 6 {
		b.dockerfile(dir, fmt.Sprintf("RUN echo %d; %s\nRUN test -s /large\n", i, slowly("/large", 30)))
		b.mustBuild(dir)
	}
	if most := watch(); most > 130*mib {
		t.Errorf("%d MiB were used", most/mib)
	}
	b.clean()
}

// TestCeilingWaits builds at the same time what fits one after the other. The older
// one doesn't wait for the other, which would be for a minute.
func TestCeilingWaits(t *testing.T) {
	t.Parallel()
	b := onSmallDisk(t, 300*mib, "--gc-max-used-space", "100MB")
	const result = " && echo ok > /ok\nFROM scratch\nCOPY --from=base /ok /\n"
	first := b.start(b.context("RUN echo 1; " + slowly("/large", 92) + "; sleep 4" + result))
	b.must(testbed.Eventually(60*time.Second, func() error {
		if total(b.du()) < 96*mib {
			return errors.New("the first build has not written yet")
		}
		return nil
	}))
	begun := time.Now()
	b.mustBuild(b.context("RUN echo 2; " + slowly("/large", 60) + result))
	if took := time.Since(begun); took > 55*time.Second {
		t.Errorf("the second build took %v", took)
	}
	if err := <-first.done; err != nil {
		t.Errorf("%v\n%s", err, first.out.String())
	}
	b.clean()
}

// TestCeilingContext sends what is more than the daemon may have.
func TestCeilingContext(t *testing.T) {
	t.Parallel()
	b := onSmallDisk(t, 300*mib, "--gc-max-used-space", "100MB")
	dir := b.context("COPY large /\n")
	b.must(os.WriteFile(filepath.Join(dir, "large"), make([]byte, 250*mib), 0o644))
	out, err := b.build(dir)
	if err == nil || !strings.Contains(out, "no room to build") && !strings.Contains(out, "no space left") {
		t.Errorf("%v\n%s", err, out)
	}
	b.must(os.Truncate(filepath.Join(dir, "large"), 20*mib))
	b.mustBuild(dir)
	b.clean()
}
