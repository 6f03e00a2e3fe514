package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kiln-build/kiln/integration/testbed"
)

// idleLimit is how long the daemon may take to put things away after a build.
const idleLimit = 10 * time.Second

// idle checks that no build has left anything: no process but the servers, no
// mount, nothing in use; and that when the cache is pruned nothing is kept, no
// lease among it.
func (b *bed) idle() {
	b.Helper()
	for _, check := range []func() error{b.noSteps, b.noMounts, b.noneInUse} {
		if err := testbed.Eventually(idleLimit, check); err != nil {
			b.Error(err)
		}
	}
	b.kiln("prune", "--all")
	for _, check := range []func() error{b.noneKept, b.noLeases} {
		if err := testbed.Eventually(idleLimit, check); err != nil {
			b.Errorf("after all is pruned: %v", err)
		}
	}
}

// noSteps checks that the daemon's folder has to do with no process but the daemon.
func (b *bed) noSteps() error {
	found, err := testbed.Processes(b.daemon.Dir)
	if err != nil {
		return err
	}
	var left []string
	for _, p := range found {
		if !strings.Contains(p, "--root "+b.daemon.Root) {
			left = append(left, p)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("still running: %s", strings.Join(left, "; "))
	}
	return nil
}

func (b *bed) noMounts() error {
	found, err := testbed.Mounts(b.daemon.Root)
	if err == nil && len(found) > 0 {
		err = fmt.Errorf("still mounted: %s", strings.Join(found, ", "))
	}
	return err
}

// record is what kiln du says of one thing in the cache.
type record struct {
	ID          string
	InUse       bool
	Size        int64
	Description string
	RecordType  string
}

// system is the type of what takes space and is no record of the cache.
const system = "system"

// records returns what the cache holds.
func (b *bed) records() ([]record, error) {
	out := try(b.daemon.Client("kiln", "du", "--format", "json"))
	if out.err != nil {
		return nil, fmt.Errorf("kiln du: %w: %s", out.err, out.stderr)
	}
	var all []record
	if err := json.Unmarshal([]byte(out.stdout), &all); err != nil {
		return nil, fmt.Errorf("kiln du: %w in %s", err, out.stdout)
	}
	return slices.DeleteFunc(all, func(r record) bool { return r.RecordType == system }), nil
}

func (b *bed) noneInUse() error {
	all, err := b.records()
	for _, r := range all {
		if r.InUse {
			err = errors.Join(err, fmt.Errorf("still in use: %+v", r))
		}
	}
	return err
}

func (b *bed) noneKept() error {
	all, err := b.records()
	if err == nil && len(all) > 0 {
		err = fmt.Errorf("still there: %+v", all)
	}
	return err
}

// noLeases looks into the host's containerd, if there is one. The daemon has a
// lease of its own as long as it runs, and those of images' documents expire.
func (b *bed) noLeases() error {
	if b.containerd == nil {
		return nil
	}
	out := try(b.containerd.Ctr("leases", "ls", "--quiet"))
	if out.err != nil {
		return out.err
	}
	left := slices.DeleteFunc(strings.Fields(out.stdout), func(id string) bool {
		return slices.ContainsFunc([]string{"kiln-mounts-", "kiln-documents-"},
			func(prefix string) bool { return strings.HasPrefix(id, prefix) })
	})
	if len(left) > 0 {
		return fmt.Errorf("leases in containerd: %v", left)
	}
	return nil
}
