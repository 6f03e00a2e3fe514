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

// remove implements engine. Mostly the runtime did it already.
func (x *external) remove(ctx context.Context, id, cgroup string) error {
	state := filepath.Join(x.c.runtimeDir(), id)
	if _, err := os.Lstat(state); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	ended := ctx.Err() == nil && filepath.IsAbs(cgroup) && !x.c.cfg.Rootless
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if ended && removeCgroup(ctx, cgroup) == nil {
		return os.RemoveAll(state) // quicker than the runtime
	}
	args := append(x.global(os.DevNull), "delete", "--force", id)
	cmd := exec.CommandContext(ctx, x.binary, args...)
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
		err := c.removeStranger(ctx, id, notedCgroup(bundle, id))
		if err == nil {
			err = os.RemoveAll(bundle)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// removeStranger removes what any engine has left of a run.
func (c *Runc) removeStranger(ctx context.Context, id, cgroup string) error {
	for _, e := range c.engines {
		if err := e.remove(ctx, id, cgroup); err != nil {
			return err
		}
	}
	return nil
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

// notedCgroup is the cgroup in a bundle's configuration; "" if it has none of that id.
func notedCgroup(bundle, id string) string {
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
