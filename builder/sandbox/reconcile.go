package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// removeEnded takes away what the runtime kept of a run that ended by itself. That
// is quicker than the runtime, which removes what is left here for any reason.
func (c *Runc) removeEnded(ctx context.Context, r *run) {
	cgroup := c.cgroupPath(r.Spec)
	if ctx.Err() != nil || c.cfg.Rootless || !filepath.IsAbs(cgroup) || !r.kept() {
		return
	}
	if removeCgroup(ctx, cgroup) == nil {
		os.RemoveAll(filepath.Join(c.runtimeDir(), r.ID))
	}
}

// remove takes away what the runtime has of a run, its processes included. Mostly
// that has been done.
func (c *Runc) remove(ctx context.Context, id, cgroup string) error {
	if _, err := os.Lstat(filepath.Join(c.runtimeDir(), id)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	args := append(c.global(os.DevNull), "delete", "--force", id)
	cmd := exec.CommandContext(ctx, c.binary, args...)
	cmd.Env = runtimeEnv
	cmd.SysProcAttr = ownProcessGroup
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("remove %s from OCI runtime: %w: %s", id, err, strings.TrimSpace(string(out)))
	}
	return removeCgroup(ctx, cgroup)
}

// Reconcile kills and removes what a daemon that died left in StateDir. What runs in
// c is left alone.
func (c *Runc) Reconcile(ctx context.Context) error {
	var errs []error
	for _, id := range c.strangers() {
		bundle := filepath.Join(c.runsDir(), id)
		err := c.remove(ctx, id, cgroupOf(bundle, id))
		if err == nil {
			err = os.RemoveAll(bundle)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// strangers are the ids in StateDir that no run of c has.
func (c *Runc) strangers() []string {
	found := map[string]bool{}
	for _, dir := range []string{c.runtimeDir(), c.runsDir()} {
		entries, _ := os.ReadDir(dir) //nolint:errcheck // NewRunc made it
		for _, e := range entries {
			found[e.Name()] = true
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(found, func(id string, _ bool) bool { return c.running[id] != nil })
	return slices.Sorted(maps.Keys(found))
}

// cgroupOf is the cgroup in a bundle's configuration; "" if it has none of that id.
func cgroupOf(bundle, id string) string {
	var spec specs.Spec
	text, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil || json.Unmarshal(text, &spec) != nil || spec.Linux == nil {
		return ""
	}
	if filepath.Base(spec.Linux.CgroupsPath) != id {
		return ""
	}
	return spec.Linux.CgroupsPath
}
