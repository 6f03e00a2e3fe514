package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kiln-build/kiln/builder/sandbox/proxy"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Reconcile kills and removes what a daemon that died left in StateDir. What runs in
// l is left alone.
func (l *Local) Reconcile(ctx context.Context) error {
	var errs []error
	for _, id := range l.strangers() {
		bundle := filepath.Join(l.runsDir(), id)
		err := l.removeStranger(ctx, id, notedCgroup(bundle, id))
		if err == nil {
			unix.Unmount(sysfsIn(bundle), unix.MNT_DETACH) //nolint:errcheck // mostly nothing is there
			err = proxy.Remove(bundle)
		}
		if err == nil {
			err = os.RemoveAll(bundle)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// removeStranger removes what any engine has left of a run.
func (l *Local) removeStranger(ctx context.Context, id, cgroup string) error {
	for _, e := range l.engines {
		if err := e.remove(ctx, id, cgroup); err != nil {
			return err
		}
	}
	return nil
}

// strangers are the ids in StateDir that no run of l has.
func (l *Local) strangers() []string {
	found := map[string]bool{}
	for _, dir := range []string{l.runtimeDir(), l.runsDir()} {
		entries, _ := os.ReadDir(dir) //nolint:errcheck // New made it
		for _, e := range entries {
			found[e.Name()] = true
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(found, func(id string, _ bool) bool { return l.running[id] != nil })
	return slices.Sorted(maps.Keys(found))
}

// notedCgroup is the cgroup in a bundle's configuration; "" if it has none of that id.
func notedCgroup(bundle, id string) string {
	var spec specs.Spec
	text, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil || json.Unmarshal(text, &spec) != nil || spec.Linux == nil {
		return ""
	}
	cgroup := strings.TrimSuffix(spec.Linux.CgroupsPath, "/"+innerCgroup)
	if !ofRun(cgroup, id) {
		return ""
	}
	return cgroup
}
