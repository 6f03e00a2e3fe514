package chaos

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/integration/testbed"
)

// power is set by package vm, which runs TestPowerLoss in a machine that it takes the
// power from: the folder is on a disk that loses what was not synced. The file is
// told when the daemon works again; the machine ends at some time after that,
// except for the last time.
var power struct {
	dir, ready string
	last       bool
}

func init() {
	flag.StringVar(&power.dir, "power", "", "folder of TestPowerLoss, which outlives it")
	flag.StringVar(&power.ready, "power-ready", "", "file that is told when the machine may lose its power")
	flag.BoolVar(&power.last, "power-last", true, "this time it doesn't")
}

// TestPowerLoss starts a daemon on what an earlier run left, of which the machine may
// have lost all that was not synced. It works, what it has in its cache is right, and
// what it has on disk it knows of. Then it builds, until the end comes; the last time
// nothing is left after all is pruned.
func TestPowerLoss(t *testing.T) {
	dir := power.dir
	if dir == "" {
		dir = testbed.Dir(t)
	}
	b := &bed{TB: t}
	round := b.round(dir)
	lost := b.lost(b.unsynced(dir, round-1))
	b.tell("lost %v\n", lost)
	b.daemon = testbed.StartDaemonIn(t, filepath.Join(dir, "daemon"), "--backend", "embedded")
	b.settled()
	near(b, fmt.Sprintf("round %d, unsynced lost: %v", round, lost), total(b.du()), onDisk(b, b.daemon.Root))
	// What was being built when the machine went down, and what has been for long.
	b.right(b.context(numbered(round - 1)))
	if round%3 == 1 || power.last {
		b.right(b.context(steady()))
	}
	b.settled()
	if t.Failed() {
		return
	}
	if !power.last {
		b.tell("ready\n")
		u := b.unsynced(dir, round)
		b.must(os.WriteFile(u.path, u.content, 0o644))
		b.buildForever(round)
	}
	b.clean()
	near(b, "at last", total(b.du()), onDisk(b, b.daemon.Root))
}

// numbered is a Dockerfile whose steps are those of no other number.
func numbered(n int) string {
	return strings.ReplaceAll(steady(), "RUN echo ", fmt.Sprintf("RUN : %d; echo ", n)) + fmt.Sprintf("RUN echo %d > /n && yes %d | head -c 3000000 > /large\n", n, n)
}

// round counts runs on a folder.
func (b *bed) round(dir string) int {
	b.Helper()
	b.must(os.MkdirAll(filepath.Join(dir, "daemon"), 0o755))
	file := filepath.Join(dir, "round")
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		text, err = []byte("0"), nil
	}
	b.must(err)
	n, err := strconv.Atoi(string(text))
	b.must(err)
	b.must(os.WriteFile(file+".new", fmt.Append(nil, n+1), 0o644))
	b.must(syncFile(file + ".new"))
	b.must(os.Rename(file+".new", file))
	b.must(syncFile(dir))
	return n + 1
}

func syncFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// unsynced is a file that a run writes last, and doesn't sync.
type unsynced struct {
	path    string
	content []byte
}

func (b *bed) unsynced(dir string, round int) unsynced {
	return unsynced{filepath.Join(dir, fmt.Sprintf("unsynced-%d", round)), bytes.Repeat(fmt.Appendf(nil, "round %d\n", round), 1000)}
}

// lost tells whether the machine has lost the file, in whole or in part: where it never
// does, the test shows nothing.
func (b *bed) lost(u unsynced) bool {
	b.Helper()
	text, err := os.ReadFile(u.path)
	if errors.Is(err, os.ErrNotExist) {
		return true
	}
	b.must(errors.Join(err, os.Remove(u.path)))
	return !bytes.Equal(text, u.content)
}

// tell writes a line for package vm.
func (b *bed) tell(format string, args ...any) {
	b.Helper()
	if power.ready == "" {
		return
	}
	f, err := os.OpenFile(power.ready, os.O_WRONLY, 0)
	b.must(err)
	_, err = fmt.Fprintf(f, format, args...)
	b.must(errors.Join(err, f.Close()))
}

// buildForever builds what differs from run to run and what doesn't, exports it,
// and removes some of it, until the machine ends.
func (b *bed) buildForever(round int) {
	b.Helper()
	steady, numbered := b.context(steady()), b.context(numbered(round))
	for i := round; ; i++ {
		other := b.start("--output", filepath.Join(b.TempDir(), "out"), numbered)
		for _, c := range b.work(steady, i) {
			<-c.done
		}
		<-other.done
	}
}
