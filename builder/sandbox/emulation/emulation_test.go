package emulation

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

func formatAll(all []ocispec.Platform) (names []string) {
	for _, p := range all {
		names = append(names, platforms.Format(p))
	}
	return names
}

// amd64 is a machine of that platform with some programs, and a binfmt_misc at dir.
func amd64(dir string, programs ...string) *Emulators {
	e := New(Config{Register: InNewNamespace, MaxAge: -1, Find: func(name string) (string, error) {
		if slices.Contains(programs, name) {
			return "/usr/bin/" + name, nil
		}
		return "", exec.ErrNotFound
	}})
	e.own, e.binfmt = platforms.MustParse("linux/amd64"), dir
	return e
}

func TestPlatforms(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, entry := range map[string]string{
		"qemu-aarch64": "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: POCF\noffset 0\n",
		"qemu-s390x":   "disabled\ninterpreter /usr/bin/qemu-s390x-static\nflags: POCF\n",
		"qemu-riscv64": "enabled\ninterpreter /usr/bin/qemu-riscv64-static\nflags: \n",
		"qemu-x86_64":  "enabled\ninterpreter x\nflags: F\n",
		"python3.11":   "enabled\nflags: F\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(entry), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		dir      string
		programs []string
		want     []string
	}{
		{dir, nil, []string{"linux/amd64", "linux/arm64"}},
		{dir, []string{"qemu-riscv64", "qemu-aarch64-static", "qemu-i386-static", "qemu-x86_64-static"}, []string{"linux/amd64", "linux/arm64", "linux/riscv64"}},
		{dir + "/nothing", nil, []string{"linux/amd64"}},
	} {
		e := amd64(c.dir, c.programs...)
		e.look()
		if got := formatAll(slices.Concat([]ocispec.Platform{e.own}, e.host, e.private)); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v", c.programs, got)
		}
	}
	configured := amd64(dir, "qemu-riscv64")
	configured.cfg.Register = Nowhere
	if got := formatAll(configured.Platforms()); !slices.Equal(got, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("without a namespace: %v", got)
	}
}

// TestOwnNamespace: what the machine knows isn't taken from the steps for the sake of
// what it doesn't.
func TestOwnNamespace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := amd64(dir, "qemu-riscv64")
	e.cfg.Register, e.cfg.MaxAge = InOwnNamespace, 0
	if got := formatAll(e.Platforms()); !slices.Equal(got, []string{"linux/amd64", "linux/riscv64"}) {
		t.Errorf("on a machine that knows none: %v", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "qemu-aarch64"), []byte("enabled\nflags: F\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := formatAll(e.Platforms()); !slices.Equal(got, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("on one that knows another: %v", got)
	}
}

func TestLooksAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := amd64(dir)
	e.cfg.MaxAge = 10 * time.Millisecond
	before := len(e.Platforms())
	if err := os.WriteFile(filepath.Join(dir, "qemu-arm"), []byte("enabled\nflags: F\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	if after := len(e.Platforms()); after != before+1 {
		t.Errorf("%d platforms, then %d", before, after)
	}
	e.cfg.MaxAge = -1
	if err := os.Remove(filepath.Join(dir, "qemu-arm")); err != nil {
		t.Fatal(err)
	}
	if after := len(e.Platforms()); after != before+1 {
		t.Errorf("looked again although that was excluded: %d platforms", after)
	}
}

func TestAdvice(t *testing.T) {
	t.Parallel()
	e := amd64(t.TempDir(), "qemu-riscv64-static")
	for p, want := range map[string]string{"linux/amd64": "", "linux/386": "", "linux/arm64": "qemu-user-static"} {
		got := e.Advice(platforms.MustParse(p))
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q", p, got)
		}
	}
	e.look()
	e.broken = errors.New("no such filesystem")
	if got := e.Advice(platforms.MustParse("linux/riscv64")); !strings.Contains(got, "binfmt-support") || !strings.Contains(got, "no such filesystem") {
		t.Errorf("not registered: %q", got)
	}
	var none *Emulators
	if none.Advice(platforms.MustParse("linux/arm64")) != "" || none.Namespace(platforms.MustParse("linux/arm64"), nil) != "" {
		t.Error("nil emulates")
	}
}

func TestRegistration(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"aarch64": `:qemu-aarch64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/q:OCF`,
		"s390x":   `:qemu-s390x:M::\x7f\x45\x4c\x46\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x16:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff:/q:OCF`,
	} {
		i := slices.IndexFunc(formats, func(f format) bool { return f.name == name })
		if got, err := formats[i].registration("/q"); err != nil || got != want {
			t.Errorf("error %v, got\n%s\nwant\n%s", err, got, want)
		}
	}
	if _, err := formats[0].registration("/a:b"); err == nil {
		t.Error("a name with a colon was accepted")
	}
}

// TestNamespace has an emulator that is no more than busybox, and a
// program in a format that this machine doesn't know.
func TestNamespace(t *testing.T) {
	t.Parallel()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	e := New(Config{Register: InNewNamespace, MaxAge: -1, Find: func(name string) (string, error) {
		if name == "qemu-loongarch64" {
			return busybox, nil
		}
		return "", exec.ErrNotFound
	}})
	t.Cleanup(e.Close)
	e.binfmt = t.TempDir()
	loong := platforms.MustParse("linux/loong64")
	file := e.Namespace(loong, nil)
	if file == "" {
		t.Fatalf("no namespace: %v", e.broken)
	}
	if again := e.Namespace(loong, nil); again != file {
		t.Errorf("namespaces %s and %s", file, again)
	}
	if e.Namespace(platforms.MustParse("linux/s390x"), nil) != "" || e.Namespace(e.own, nil) != "" {
		t.Error("a namespace for what needs none")
	}
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		t.Fatal(err)
	}
	// busybox takes the name of the program that it is to run for its applet's.
	header := append([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x02\x01"), make([]byte, 200)...)
	program := filepath.Join(t.TempDir(), "foreign")
	if err := os.WriteFile(program, header, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command(program).Run(); !errors.Is(err, unix.ENOEXEC) {
		t.Errorf("outside: %v", err)
	}
	out, _ := exec.Command("nsenter", "--user="+file, program).CombinedOutput() //nolint:errcheck // busybox has no such applet
	if !bytes.Contains(out, []byte("applet not found")) {
		t.Errorf("inside: %s", out)
	}
	e.Close()
	if _, err := os.Stat(file); err == nil {
		t.Error("the namespace is left")
	}
}
