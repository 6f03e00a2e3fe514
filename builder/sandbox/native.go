package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/kiln-build/kiln/builder/sandbox/inside"
	"github.com/moby/sys/capability"
	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // or rules for devices are ignored
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/cgroups/systemd"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// native is the engine that starts processes itself, by the program kiln-init.
type native struct {
	init *os.File // a sealed copy of the program
	path string   // of that copy, for children
	// profile is the usual seccomp profile and filter what it compiles to.
	profile *specs.LinuxSeccomp
	filter  []inside.Instruction
	lastCap int
	parent  *parent
}

// newNative fails where the kernel has not what it takes. profile is the usual one.
func newNative(program string, profile *specs.LinuxSeccomp) (*native, error) {
	if err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{}); errors.Is(err, unix.ENOSYS) {
		return nil, errors.New("the kernel is older than 5.12")
	}
	n := &native{profile: profile}
	last, err := capability.LastCap()
	if err != nil {
		return nil, fmt.Errorf("capabilities of the kernel: %w", err)
	}
	n.lastCap = int(last)
	if n.filter, err = compiled(n.profile); err != nil {
		return nil, err
	}
	if n.init, err = sealed(program); err != nil {
		return nil, err
	}
	// Not /proc/self: children shuffle their descriptors before they execute.
	n.path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.init.Fd())
	n.parent = newParent()
	return n, nil
}

// takes implements engine.
func (n *native) takes(r *run) error {
	if r.Users != nil && r.Shared {
		return fmt.Errorf("further processes in a user namespace: %w", errUnsupported)
	}
	return supported(r.spec)
}

// close implements engine. Processes that still run are killed.
func (n *native) close() error {
	n.parent.close()
	return n.init.Close()
}

// sealed makes a copy of a program that nobody can write to: in a sandbox it can be
// reached as /proc/PID/exe.
func sealed(program string) (_ *os.File, err error) {
	text, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate(filepath.Base(program), unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 all are executable
		fd, err = unix.MemfdCreate(filepath.Base(program), unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), program)
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if _, err := f.Write(text); err != nil {
		return nil, err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
	return f, os.NewSyscallError("seal", err)
}

// parent is a thread that starts processes, which die when it ends: with the daemon,
// whatever ends that, or when it is closed. The daemon's other threads come and go.
type parent struct {
	calls chan func()
	done  chan struct{}
}

func newParent() *parent {
	p := &parent{calls: make(chan func()), done: make(chan struct{})}
	go func() {
		runtime.LockOSThread() // and never unlock it: the thread ends with the goroutine
		defer close(p.done)
		for f := range p.calls {
			f()
		}
	}()
	return p
}

// start starts a process.
func (p *parent) start(cmd *exec.Cmd) error {
	err := make(chan error)
	p.calls <- func() { err <- cmd.Start() }
	return <-err
}

func (p *parent) close() {
	close(p.calls)
	<-p.done
}

// run implements engine.
func (n *native) run(ctx context.Context, r *run, io IO, started func()) error {
	if err := noteCgroup(r); err != nil {
		return fmt.Errorf("run: %w", err)
	}
	b, err := n.begin(r.spec.Process, io, r.streamsOwner(r.spec.Process.User))
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	b.cmd.SysProcAttr.Cloneflags = newFlags(r.spec)
	b.cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	start := n.parent.start
	if r.Users != nil {
		n.remap(b.cmd, r.Users)
		ended := make(chan struct{})
		defer close(ended)
		start = func(cmd *exec.Cmd) error { return n.parent.startIn(r.network.path, cmd, ended) }
	}
	if err := b.start(ctx, start); err != nil {
		return fmt.Errorf("run: %w", err)
	}
	order, err := n.order(r, b.cmd.Process.Pid)
	if err == nil {
		err = b.give(order)
	}
	if err != nil {
		b.abort(ctx)
		return &StartError{Command: r.Args[0], Reason: err.Error()}
	}
	return b.wait(ctx, started)
}

// exec implements engine. The process is made in the process namespace of the
// sandbox and enters the others itself.
func (n *native) exec(ctx context.Context, r *run, p execution, io IO, started func()) error {
	if r.Users != nil { // it would have the rights of the host's root
		return fmt.Errorf("exec in %s, which wasn't to be shared: %w", r.ID, errUnsupported)
	}
	b, err := n.begin(p.Process, io, nil)
	if err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	b.reach = processGroup
	b.cmd.ExtraFiles = append(b.cmd.ExtraFiles, r.first)
	if err := b.start(ctx, func(cmd *exec.Cmd) error { return startIn(r.first, cmd) }); err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	process, err := n.process(r, p.Process)
	if err == nil {
		err = r.cgroup.AddPid("", b.cmd.Process.Pid)
	}
	if err == nil {
		err = b.give(&inside.Order{Process: process})
	}
	if err != nil {
		b.abort(ctx)
		return &StartError{Command: p.Args[0], Reason: err.Error()}
	}
	return b.wait(ctx, started)
}

// startIn starts a process in the process namespace of another.
func startIn(pidfd *os.File, cmd *exec.Cmd) error {
	err := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock it: the thread is of no other use
		if e := unix.Setns(int(pidfd.Fd()), unix.CLONE_NEWPID); e != nil {
			err <- os.NewSyscallError("setns(CLONE_NEWPID)", e)
			return
		}
		err <- cmd.Start()
	}()
	return <-err
}

// order puts the process into r's cgroup and says what it is to become.
func (n *native) order(r *run, pid int) (*inside.Order, error) {
	config, err := cgroupOf(r.spec.Linux)
	if err != nil {
		return nil, err
	}
	if r.cgroup, err = manager.New(config); err != nil {
		return nil, err
	}
	if err := r.cgroup.Apply(pid); err != nil {
		return nil, err
	}
	if err := setLimits(r.cgroup, config.Resources); err != nil {
		return nil, err
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	r.first = os.NewFile(uintptr(pidfd), "pidfd")
	process, err := n.process(r, r.spec.Process)
	if err != nil {
		return nil, err
	}
	process.DieWithParent = true
	if r.Users != nil {
		if err := raiseLimits(pid, process.Rlimits); err != nil {
			return nil, err
		}
	}
	around, err := sandboxOrder(r, r.cgroup.GetPaths())
	if err != nil {
		return nil, err
	}
	return &inside.Order{Sandbox: around, Process: process}, nil
}

// explored: the cgroups library knows the names of this kernel's files. It keeps them
// in variables that it doesn't protect.
var explored struct {
	sync.Mutex
	done atomic.Bool
}

func setLimits(m cgroups.Manager, r *cgroups.Resources) error {
	if explored.done.Load() {
		return m.Set(r)
	}
	explored.Lock()
	defer explored.Unlock()
	err := m.Set(r)
	explored.done.Store(err == nil)
	return err
}

// process is p with the environment that a runtime would give it.
func (n *native) process(r *run, p *specs.Process) (inside.Process, error) {
	order, err := n.processOrder(p, r.spec.Linux.Seccomp)
	if err != nil {
		return order, err
	}
	order.Env, err = completeEnv(r.Root, order.Env, order.UID)
	return order, err
}

// noteCgroup writes down which cgroup a run has, for the daemon that comes if this
// one dies.
func noteCgroup(r *run) error {
	note := specs.Spec{Linux: &specs.Linux{CgroupsPath: r.spec.Linux.CgroupsPath}}
	return writeJSON(filepath.Join(r.bundle, "config.json"), note)
}

// remove implements engine. A process namespace has ended with its first process.
func (n *native) remove(ctx context.Context, _, cgroup string) error {
	if cgroup == "" {
		return nil
	}
	if sc, ok := parseScope(cgroup); ok {
		return removeScope(sc)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	return removeCgroup(ctx, cgroup)
}

// removeScope has systemd remove a scope, unless it has done so.
func removeScope(sc scope) error {
	if !systemd.IsRunningSystemd() {
		return nil
	}
	c := sc.cgroup()
	c.Resources = &cgroups.Resources{}
	m, err := manager.New(c)
	if err != nil {
		return err
	}
	return m.Destroy()
}
