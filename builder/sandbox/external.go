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
	"slices"
	"strings"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// external is the engine that calls an OCI runtime's binary.
type external struct {
	l      *Local
	binary string
	// keeps tells whether the runtime can leave a container, and its cgroup, when its
	// process has ended: runc can, older crun and runsc can't.
	keeps func() bool
}

func newExternal(l *Local, binary string) *external {
	return &external{l: l, binary: binary, keeps: sync.OnceValue(func() bool { return hasFlag(binary, "--keep") })}
}

// probeTimeout bounds a question to a runtime.
const probeTimeout = 5 * time.Second

// hasFlag looks for a flag in the help for a runtime's command "run".
func hasFlag(binary, flag string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "run", "--help")
	cmd.Env, cmd.WaitDelay = runtimeEnv, time.Second
	out, _ := cmd.CombinedOutput() //nolint:errcheck // some call that an error, and answer
	return slices.Contains(strings.Fields(string(out)), flag)
}

// takes implements engine.
func (x *external) takes(*run) error { return nil }

// run implements engine.
func (x *external) run(ctx context.Context, r *run, io IO, started func()) error {
	spec := r.spec
	if r.measured() && !x.keeps() {
		spec = nested(spec)
	}
	if err := writeJSON(filepath.Join(r.bundle, "config.json"), spec); err != nil {
		return fmt.Errorf("run: %w", err)
	}
	return x.call(ctx, x.command(r), io, started)
}

// innerCgroup is the name of a cgroup in that of a run.
const innerCgroup = "process"

// nested is s with a cgroup inside its cgroup: the runtime removes the inner one with the
// process, and the outer one still tells what was used.
func nested(s *specs.Spec) *specs.Spec {
	if !filepath.IsAbs(s.Linux.CgroupsPath) {
		return s
	}
	spec, linux := *s, *s.Linux
	linux.CgroupsPath = filepath.Join(linux.CgroupsPath, innerCgroup)
	spec.Linux = &linux
	return &spec
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
	ended := ctx.Err() == nil && filepath.IsAbs(cgroup) && !x.l.cfg.Rootless
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if _, err := os.Lstat(state); errors.Is(err, fs.ErrNotExist) {
		return removeCgroup(ctx, cgroup)
	}
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

// measured tells whether r's cgroup is looked at when its process has ended.
func (r *run) measured() bool { return r.Resources.Memory != 0 || r.Observe != nil }

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
	cmd.args = x.global(cmd.logFile)
	if _, ok := parseScope(r.spec.Linux.CgroupsPath); ok {
		cmd.args = append(cmd.args, "--systemd-cgroup")
	}
	cmd.args = append(cmd.args, "run", "--bundle", r.bundle, "--pid-file", cmd.pidFile)
	if x.l.cfg.HostPID {
		cmd.reach = processGroup
	}
	if x.l.cfg.NoPivot {
		cmd.args = append(cmd.args, "--no-pivot")
	}
	if r.measured() && x.keeps() {
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
