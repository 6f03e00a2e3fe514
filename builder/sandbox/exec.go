package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Exec implements Runner.
func (l *Local) Exec(ctx context.Context, id string, p Process, io IO, started func()) (err error) {
	ses, err := l.join(ctx, id)
	if err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	defer ses.execs.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ses.alive, func() { cancel(errEnded) })()

	r := ses.run
	process, err := l.ociProcess(r, p)
	if err != nil {
		return fmt.Errorf("exec in %s: %w", id, err)
	}
	dir, err := os.MkdirTemp(r.bundle, "exec-")
	if err != nil {
		return fmt.Errorf("exec in %s: %w", id, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if started == nil {
		started = func() {}
	}
	err = r.engine.exec(ctx, r, execution{Process: process, dir: dir}, io, started)
	if errors.Is(err, errEnded) {
		return &ExitError{Code: exitKilled, Err: errEnded}
	}
	return err
}

// exitKilled is the exit code of a process that was killed.
const exitKilled = 128 + int(unix.SIGKILL)

// ociProcess writes p down for an OCI runtime, with r's values where p has none.
func (l *Local) ociProcess(r *run, p Process) (*specs.Process, error) {
	if err := checkCommand(p.Args, p.Env); err != nil {
		return nil, err
	}
	if !p.Security.valid() {
		return nil, fmt.Errorf("unknown security mode %v", p.Security)
	}
	if p.Security == Insecure && r.Security != Insecure {
		return nil, errors.New("an insecure process needs a sandbox that was started as insecure")
	}
	out := &specs.Process{
		Terminal:     p.Terminal,
		User:         ociUser(r.owner),
		Args:         p.Args,
		Env:          replaceEnv(p.Env, r.network.env),
		Cwd:          r.Cwd,
		Capabilities: l.base.capabilities(p.Security),
		Rlimits:      r.rlimits,
		SelinuxLabel: r.labels.process,
	}
	if p.Security == Sandboxed {
		out.ApparmorProfile = l.cfg.AppArmorProfile
	}
	if len(p.Env) == 0 {
		out.Env = r.Env
	}
	if p.Cwd != "" {
		cwd, err := checkedCwd(p.Cwd)
		if err != nil {
			return nil, err
		}
		out.Cwd = cwd
	}
	if p.User != "" {
		o, err := l.userIn(r, p.User)
		if err != nil {
			return nil, err
		}
		out.User = ociUser(o)
	}
	return out, nil
}

func (l *Local) userIn(r *run, name string) (owner, error) {
	t, err := openTree(r.Root)
	if err != nil {
		return owner{}, err
	}
	defer t.Close()
	return lookupUser(t, name)
}
