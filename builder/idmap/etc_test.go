package idmap_test

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inPrivateEtc runs a test again in a mount namespace with an /etc of its own, which is
// empty.
func inPrivateEtc(t *testing.T, name string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run", "^"+name+"$", "-test.v")
	cmd.Env = append(os.Environ(), "KILN_TEST_SUBIDS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestMain(m *testing.M) {
	if os.Getenv("KILN_TEST_SUBIDS") != "" {
		if err := unix.Mount("tmpfs", "/etc", "tmpfs", 0, ""); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
