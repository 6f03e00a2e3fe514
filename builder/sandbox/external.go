package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// external is the engine that calls an OCI runtime's binary.
type external struct {
	l      *Local
	binary string
}

// takes implements engine.
func (x *external) takes(*run) error { return nil }

// run implements engine.
func (x *external) run(ctx context.Context, r *run, io IO, started func()) error {
	if err := writeJSON(filepath.Join(r.bundle, "config.json"), r.spec); err != nil {
		return fmt.Errorf("run: %w", err)
	}
	return x.call(ctx, x.command(r), io, started)
}

// exec implements engine.
func (x *external) exec(ctx context.Context, r *run, p execution, io IO, started func()) error {
	cmd := command{
		name:     p.Args[0],
		logFile:  filepath.Join(p.dir, "log.json"),
		pidFile:  filepath.Join(p.dir, "pid"),
		terminal: p.Terminal,
		owner:    r.streamsOwner(p.User),
		reach:    processGroup,
	}
	file := filepath.Join(p.dir, "process.json")
	if err := writeJSON(file, p.Process); err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	cmd.args = append(x.global(cmd.logFile), "exec", "--process", file, "--pid-file", cmd.pidFile, r.ID)
	return x.call(ctx, cmd, io, started)
}

// remove implements engine. Mostly the runtime did it already.
func (x *external) remove(ctx context.Context, id, cgroup string) error {
	state := filepath.Join(x.l.runtimeDir(), id)
	if _, err := os.Lstat(state); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	ended := ctx.Err() == nil && filepath.IsAbs(cgroup) && !x.l.cfg.Rootless
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

// close implements engine.
func (x *external) close() error { return nil }

// command is a call of the runtime that stays in the foreground with one process.
// The files are the bundle's.
type command struct {
	name     string // the process' command, for messages
	args     []string
	logFile  string
	pidFile  string
	terminal bool
	owner    *owner // of the streams; nil leaves that to the runtime
	reach    reach
}

// global are the runtime's options that stand before its command.
func (x *external) global(logFile string) []string {
	return []string{"--root", x.l.runtimeDir(), "--log", logFile, "--log-format", "json"}
}

// kept tells whether the runtime is to keep the container, for its cgroup is looked at
// afterwards.
func (r *run) kept() bool { return r.Resources.Memory != 0 || r.Observe != nil }

// command runs r.
func (x *external) command(r *run) command {
	cmd := command{
		name:     r.Args[0],
		logFile:  filepath.Join(r.bundle, "log.json"),
		pidFile:  filepath.Join(r.bundle, "pid"),
		terminal: r.Terminal,
		owner:    r.streamsOwner(r.spec.Process.User),
		reach:    wholeNamespace,
	}
	cmd.args = append(x.global(cmd.logFile), "run", "--bundle", r.bundle, "--pid-file", cmd.pidFile)
	if x.l.cfg.HostPID {
		cmd.reach = processGroup
	}
	if x.l.cfg.NoPivot {
		cmd.args = append(cmd.args, "--no-pivot")
	}
	if r.kept() {
		cmd.args = append(cmd.args, "--keep")
	}
	cmd.args = append(cmd.args, r.ID)
	return cmd
}

// runtimeEnv is all that a runtime needs of its environment; the daemon's may hold
// secrets.
var runtimeEnv = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// call runs the command to its end.
func (x *external) call(ctx context.Context, cmd command, io IO, started func()) error {
	streams, err := openStreams(io, cmd.terminal, cmd.owner)
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	process := exec.Command(x.binary, cmd.args...)
	process.Env = runtimeEnv
	streams.give(process)
	process.SysProcAttr = ownProcessGroup
	if err := process.Start(); err != nil {
		streams.close(ctx)
		return fmt.Errorf("run OCI runtime: %w", err)
	}
	streams.started()
	w := watcher{process: process, pidFile: cmd.pidFile, reach: cmd.reach, started: started, streams: streams, io: io, patience: x.l.patience}
	w.watch(ctx)
	streams.close(ctx)
	return w.result(ctx, cmd)
}

// result says how the process ended.
func (w *watcher) result(ctx context.Context, cmd command) error {
	code := w.process.ProcessState.ExitCode()
	switch {
	case w.killed:
		return fmt.Errorf("run %q: killed: %w", cmd.name, context.Cause(ctx))
	case w.target == nil:
		return &StartError{Command: cmd.name, Reason: lastError(cmd.logFile, w.process.ProcessState)}
	case code < 0:
		return fmt.Errorf("run %q: OCI runtime was killed: %v", cmd.name, w.process.ProcessState)
	case code > 0:
		return &ExitError{Code: code}
	}
	return nil
}

// maxLog bounds what is read of a runtime's log, in bytes.
const maxLog = 64 << 10

// lastError is the last error in a runtime's log, without the runtime's preamble.
func lastError(logFile string, state *os.ProcessState) string {
	reason := fmt.Sprintf("the OCI runtime failed without a message: %v", state)
	f, err := os.Open(logFile)
	if err != nil {
		return reason
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxLog))
	if err != nil {
		return reason
	}
	for line := range bytes.Lines(text) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && entry.Level == "error" {
			reason = entry.Msg
		}
	}
	for _, preamble := range []string{"runc run failed: ", "exec failed: ", "unable to start container process: ", "error during container init: "} {
		reason = strings.TrimPrefix(reason, preamble)
	}
	return reason
}
