package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// engine starts processes that have been prepared, and waits for them. What its
// methods return and when they call started is as for [Runner].
type engine interface {
	// takes says why the engine can't run r, nil if it can.
	takes(r *run) error
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

// openEngines opens those that the configuration names. One is enough, but a program
// that it names has to be there. After an error none is open.
func (l *Local) openEngines() (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if l.cfg.Shim != nil {
		t, err := newTasks(l.cfg.StateDir, *l.cfg.Shim)
		if err == nil {
			l.engines = []engine{t}
		}
		return err
	}
	unfit := l.openNative()
	if errors.Is(unfit, fs.ErrNotExist) {
		return unfit
	}
	binary, err := findRuntime(l.cfg.Binary)
	if err == nil {
		l.engines = append(l.engines, newExternal(l, binary))
	}
	if len(l.engines) == 0 || err != nil && l.cfg.Binary != "" {
		return errors.Join(unfit, err)
	}
	if unfit != nil {
		log.L.WithError(unfit).Warnf("%s starts all processes, which takes longer", binary)
	}
	return nil
}

// openNative opens the engine for the configured program, if the configuration has one
// and nothing that only runtimes do.
func (l *Local) openNative() error {
	if l.cfg.Init == "" || l.cfg.Rootless || l.cfg.HostPID || l.cfg.NoPivot {
		return nil
	}
	n, err := newNative(l.cfg.Init, l.base.seccomp)
	if err != nil {
		return fmt.Errorf("start processes by %s: %w", l.cfg.Init, err)
	}
	l.engines = append(l.engines, n)
	return nil
}

// engineFor is the engine that starts the process of r.
func (l *Local) engineFor(r *run) (engine, error) {
	var why error
	for _, e := range l.engines {
		if why = e.takes(r); why == nil {
			return e, nil
		}
	}
	return nil, fmt.Errorf("%w, and there is none: install runc", why)
}

// Close gives up what l has open. Processes that still run may end with it. No method
// may be called afterwards.
func (l *Local) Close() error {
	var errs []error
	for _, e := range l.engines {
		errs = append(errs, e.close())
	}
	return errors.Join(errs...)
}
