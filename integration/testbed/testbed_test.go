package testbed

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestMain(m *testing.M) {
	if err := UsePrograms(); err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestCleanNamesWhatIsLeft(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "kiln-")
	if err != nil {
		t.Fatal(err)
	}
	mount := filepath.Join(dir, "mount")
	if err := os.Mkdir(mount, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", mount, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	sleep := exec.Command("sleep", "60")
	sleep.Dir = dir
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	err = Clean(dir)
	sleep.Process.Kill()
	sleep.Wait()
	for _, want := range []string{mount + " is left mounted", "left running", "sleep 60"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %q in it", err, want)
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the folder is not gone: %v", err)
	}
}

// TestProcessesSeesSteps runs a process in a root like that of a step.
func TestProcessesSeesSteps(t *testing.T) {
	t.Parallel()
	dir := Dir(t)
	cmd := exec.Command("unshare", "--mount", "sh", "-ec", `
		mkdir -p lower/bin upper work root
		cp "$(command -v busybox)" lower/bin/
		mount -t overlay -o lowerdir="$PWD/lower,upperdir=$PWD/upper,workdir=$PWD/work" none root
		cd root
		mkdir old
		pivot_root . old
		/bin/busybox umount -l /old
		/bin/busybox echo ready
		exec /bin/busybox sleep 60`)
	cmd.Dir = dir
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	if _, err := io.ReadFull(out, make([]byte, len("ready"))); err != nil {
		t.Fatal(err)
	}
	found, err := Processes(dir)
	if err != nil || len(found) != 1 {
		t.Errorf("found %q, %v, want the sleep", found, err)
	}
}

func TestImagesAreTheSameEveryTime(t *testing.T) {
	t.Parallel()
	one, err := Busybox()
	if err != nil {
		t.Fatal(err)
	}
	other, err := Busybox()
	if err != nil {
		t.Fatal(err)
	}
	a, _ := one.Digest()
	b, _ := other.Digest()
	if a != b {
		t.Errorf("digests %s and %s", a, b)
	}
}

func TestServers(t *testing.T) {
	t.Parallel()
	dir := Dir(t)
	registry, err := StartRegistry(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := registry.Stop(); err != nil {
			t.Error(err)
		}
	}()
	busybox, err := Busybox()
	if err != nil {
		t.Fatal(err)
	}
	if err := registry.PushImage("busybox:latest", busybox); err != nil {
		t.Fatal(err)
	}
	c := StartContainerd(t)
	image := registry.Host + "/busybox:latest"
	if out, err := c.Ctr("image", "pull", "--plain-http", image).CombinedOutput(); err != nil {
		t.Fatalf("pull: %v: %s", err, out)
	}
	out, err := c.Run(image, "echo", "hello").Output()
	if err != nil || string(out) != "hello\n" {
		t.Errorf("run: %v: %q", err, out)
	}
}

func TestServerThatEndsWhileStarting(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sh", "-c", "echo no luck; exit 3")
	_, err := serve(cmd, filepath.Join(Dir(t), "log"), func() error { return os.ErrNotExist })
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("error is %v", err)
	}
}

func TestServerThatEndsByItself(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sleep", "0.1")
	s, err := serve(cmd, filepath.Join(Dir(t), "log"), func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	s.Wait(stopLimit)
	if err := s.Stop(); err == nil || !strings.Contains(err.Error(), "by itself") {
		t.Errorf("error is %v", err)
	}
}
