package chaos

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kiln-build/kiln/integration/testbed"
)

// kills is how often each backend's daemon is killed. One in eight times it is
// killed again while it starts.
var kills = flag.Int("kills", 5, "kill each backend's daemon this often")

// thorough is for tests that otherwise take samples.
var thorough = flag.Bool("thorough", false, "damage each file in each way")

// steady is a Dockerfile with steps whose results are always the same.
func steady() string {
	var text strings.Builder
	for stage := range 3 {
		fmt.Fprintf(&text, "FROM base AS s%d\n", stage)
		for step := range 4 {
			fmt.Fprintf(&text, "RUN echo %d >> /log%d; yes %d%d | head -c 400000 > /data%d%d; ln /log%d /link%d\n",
				step, stage, stage, step, stage, step, stage, step)
		}
		fmt.Fprintf(&text, "RUN --mount=type=cache,target=/c echo x >> /c/log; cat /log%d > /c/last\n", stage)
	}
	text.WriteString("FROM s0\nCOPY --from=s1 /log1 /data10 /\nCOPY --from=s2 /log2 /data23 /\nCOPY busybox /copied\nRUN rm /data01 && mv /data02 /moved\n")
	return text.String()
}

// TestCrash kills daemons while they build, export, and remove, and starts them
// again. Each time they work, what they have in their caches is right, and at
// last nothing is left.
func TestCrash(t *testing.T) {
	t.Parallel()
	onBoth(t, func(b *bed) {
		dir := b.context(steady())
		for i := range *kills {
			began := time.Now()
			clients := b.work(dir, i)
			time.Sleep(rand.N(1200 * time.Millisecond))
			b.must(b.daemon.Kill())
			for _, c := range clients {
				c.kill()
			}
			if i%8 == 7 {
				b.killStarting()
			}
			b.daemon.Start(b)
			if i%10 == 9 || i == *kills-1 {
				b.right(dir)
			}
			b.Logf("kill %d took %v", i, time.Since(began))
		}
		b.right(dir)
		b.clean()
		if b.containerd == nil {
			near(b, "after crashes", total(b.du()), onDisk(b, b.daemon.Root))
		} else if n := leased(b); n > 0 {
			b.Errorf("%d bytes are still leased", n)
		}
	})
}

// work starts clients of all kinds.
func (b *bed) work(dir string, i int) []*client {
	out := filepath.Join(b.TempDir(), "out")
	args := [][]string{
		{"--output", out},
		{"--output", "type=oci,dest=" + out + ".tar"},
		{"--output", "type=oci,compression=zstd,dest=" + out + ".tar"},
		{"--tag", "example.test/chaos"},
		{"--no-cache", "--output", out},
	}
	clients := []*client{b.start(append(args[i%len(args)], dir)...)}
	if rand.IntN(3) == 0 {
		clients = append(clients, b.start("--no-cache", "--output", out+"2", dir))
	}
	if rand.IntN(3) == 0 {
		c := &client{cmd: b.daemon.Client("kiln", "prune", "--all"), done: make(chan error, 1)}
		time.Sleep(rand.N(300 * time.Millisecond))
		b.must(c.cmd.Start())
		go func() { c.done <- c.cmd.Wait() }()
		clients = append(clients, c)
	}
	return clients
}

// killStarting starts a daemon that doesn't get far.
func (b *bed) killStarting() {
	args := []string{"--root", b.daemon.Root, "--addr", b.daemon.Addr, "--backend", "embedded"}
	if b.containerd != nil {
		args = append(args[:5], "host", "--containerd-address", b.containerd.Socket)
	}
	cmd := exec.Command("kilnd", args...)
	b.must(cmd.Start())
	time.Sleep(rand.N(60 * time.Millisecond))
	cmd.Process.Kill()
	cmd.Wait()
}

// damages are what may happen to a file.
var damages = map[string]func(path string) error{
	"gone":  os.Remove,
	"empty": func(path string) error { return os.Truncate(path, 0) },
	"cut": func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, info.Size()/2)
	},
	"garbage": func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, []byte(strings.Repeat("garbage ", int(info.Size()/8)+1)), 0o600)
	},
	"garbage inside": func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt([]byte(strings.Repeat("garbage ", int(info.Size()/16))), info.Size()/2)
		return err
	},
}

// TestDamage spoils one file of a root after the other. The daemon starts, what
// it builds is right, and what it can't use any more is not left on disk.
func TestDamage(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	dir := b.context(steady())
	for _, name := range []string{
		"cache.db", "containerd/meta.db", "containerd/snapshots-overlayfs/containerd.db", "workerid", "layers/id", "local/id",
		"containerd/boot", "cache.db.open",
	} {
		for how, damage := range damages {
			if !*thorough && rand.IntN(len(damages)) > 0 {
				continue
			}
			b.mustBuild("--output", b.TempDir(), dir)
			b.must(b.daemon.Kill())
			b.must(damage(filepath.Join(b.daemon.Root, name)))
			b.daemon.Start(b)
			b.right(dir)
			b.settled()
			near(b, name+" is "+how, total(b.du()), onDisk(b, b.daemon.Root))
			b.clean()
			if b.Failed() {
				b.Fatalf("after %s was %s", name, how)
			}
		}
	}
}

// TestMachineCrash does to a root what a machine does that loses power: what was
// not synced is lost, in part or in whole, and the boot id is another one. It
// doesn't cover what the filesystem itself may lose, such as names.
func TestMachineCrash(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	dir := b.context(steady())
	for round := range 4 {
		b.mustBuild("--output", "type=oci,dest="+filepath.Join(b.TempDir(), "x.tar"), dir)
		b.must(b.daemon.Kill())
		b.unmount()
		for _, mark := range []string{"containerd/boot", "cache.db.open"} {
			b.must(os.WriteFile(filepath.Join(b.daemon.Root, mark), []byte("another run of the machine\n"), 0o600))
		}
		b.spoil(round)
		b.daemon.Start(b)
		b.right(dir)
		b.settled()
		near(b, "after a crash", total(b.du()), onDisk(b, b.daemon.Root))
	}
	b.clean()
}

// unmount does what the end of the machine does.
func (b *bed) unmount() {
	b.Helper()
	mounts, err := testbed.Mounts(b.daemon.Root)
	b.must(err)
	for _, m := range slices.Backward(mounts) {
		b.must(syscall.Unmount(m, syscall.MNT_DETACH))
	}
}

// spoil cuts files short, at random, which were written and not synced.
func (b *bed) spoil(round int) {
	b.Helper()
	random := rand.New(rand.NewPCG(uint64(round), 1))
	b.must(filepath.WalkDir(b.daemon.Root, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || random.IntN(3) > 0 {
			return err
		}
		switch filepath.Base(path) {
		case "boot", "cache.db.open", "workerid", "id":
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.Truncate(path, random.Int64N(info.Size()+1))
	}))
}
