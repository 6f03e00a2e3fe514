package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// remove takes away what the runtime has of a run, its processes included. Mostly
// the runtime did so itself.
func (c *Runc) remove(ctx context.Context, id string) error {
	if _, err := os.Lstat(filepath.Join(c.runtimeDir(), id)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	args := append(c.global(os.DevNull), "delete", "--force", id)
	cmd := exec.CommandContext(ctx, c.binary, args...)
	cmd.SysProcAttr = ownProcessGroup
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("remove %s from OCI runtime: %w: %s", id, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Reconcile kills and removes what a daemon that died left in StateDir. What runs in
// c is left alone.
func (c *Runc) Reconcile(ctx context.Context) error {
	var errs []error
	for _, id := range c.strangers(c.runtimeDir()) {
		errs = append(errs, c.remove(ctx, id))
	}
	for _, id := range c.strangers(c.runsDir()) {
		errs = append(errs, os.RemoveAll(filepath.Join(c.runsDir(), id)))
	}
	return errors.Join(errs...)
}

// strangers are the names in dir that no run of c has.
func (c *Runc) strangers(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for _, e := range entries {
		if c.running[e.Name()] == nil {
			names = append(names, e.Name())
		}
	}
	return names
}
