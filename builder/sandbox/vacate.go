package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/kiln-build/kiln/builder/sandbox/meter"
	"golang.org/x/sys/unix"
)

// ownCgroup is where VacateCgroup moves processes to.
const ownCgroup = "init"

// VacateCgroup moves all processes of a cgroup v2, with its directory, into one below
// it, and lets all controllers be used there: the kernel doesn't allow both processes
// and controlled cgroups in one place. It is for the root of a container's cgroups. On
// cgroup v1, which has no such rule, it does nothing.
func VacateCgroup(dir string) error {
	if !meter.Unified(dir) {
		return nil
	}
	own := filepath.Join(dir, ownCgroup)
	if err := os.Mkdir(own, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("set up cgroups: %w", err)
	}
	// Those that are moved may have children meanwhile.
	for {
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			return fmt.Errorf("set up cgroups: %w", err)
		}
		ids := strings.Fields(string(procs))
		if len(ids) == 0 {
			break
		}
		for _, pid := range ids {
			err := os.WriteFile(filepath.Join(own, "cgroup.procs"), []byte(pid), 0)
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("set up cgroups: move process %s to %s: %w", pid, own, err)
			}
		}
	}
	controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("set up cgroups: %w", err)
	}
	for name := range strings.FieldsSeq(string(controllers)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0); err != nil {
			return fmt.Errorf("set up cgroups: controller %s of %s: %w", name, dir, err)
		}
	}
	return nil
}
