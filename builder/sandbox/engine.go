package sandbox

import (
	"context"
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// engine starts processes that have been prepared, and waits for them. What its
// methods return and when they call started is as for [Runner].
type engine interface {
	// run runs the first process of r.
	run(ctx context.Context, r *run, io IO, started func()) error
	// exec runs p beside the first process of r. dir is its own to use.
	exec(ctx context.Context, r *run, p execution, io IO, started func()) error
	// remove kills and takes away what is left of a run, which may have been
	// another daemon's. cgroup is "" where that isn't known.
	remove(ctx context.Context, id, cgroup string) error
	// close gives up what the engine has open; its processes may end with it.
	close() error
}

// execution is a further process.
type execution struct {
	*specs.Process
	dir string // for files, removed afterwards
}

// openEngines opens those that the configuration names. One is enough.
func (c *Runc) openEngines() error {
	if c.cfg.Shim != nil {
		t, err := newTasks(c, *c.cfg.Shim)
		if err == nil {
			c.engines = []engine{t}
		}
		return err
	}
	var errs []error
	if c.cfg.Init != "" && !c.cfg.Rootless && !c.cfg.HostPID && !c.cfg.NoPivot {
		n, err := newNative(c, c.cfg.Init)
		if err == nil {
			c.engines = append(c.engines, n)
		}
		errs = append(errs, err)
	}
	binary, err := findRuntime(c.cfg.Binary)
	if err == nil {
		c.engines = append(c.engines, &external{c: c, binary: binary})
	}
	if len(c.engines) > 0 && (err == nil || c.cfg.Binary == "") {
		return nil
	}
	return errors.Join(append(errs, err)...)
}

// engineFor is the engine that starts the process of s.
func (c *Runc) engineFor(s *specs.Spec) (engine, error) {
	var why error
	for _, e := range c.engines {
		if _, ok := e.(*native); !ok {
			return e, nil
		}
		if why = supported(s); why == nil {
			return e, nil
		}
	}
	return nil, fmt.Errorf("%w, and there is none: install runc", why)
}

// Close ends all processes and gives up what c has open. No method may be called
// afterwards.
func (c *Runc) Close() error {
	var errs []error
	for _, e := range c.engines {
		errs = append(errs, e.close())
	}
	return errors.Join(errs...)
}
