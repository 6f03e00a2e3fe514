package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/pkg/apparmor"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/sandbox/device"
	"github.com/kiln-build/kiln/builder/sandbox/meter"
	"github.com/opencontainers/selinux/go-selinux"
)

// Config says how a Local runs processes. StateDir is required.
type Config struct {
	// Shim has containerd start all processes; nil is to start them here.
	Shim *Shim
	// Init is the path of the program kiln-init, by which processes are started
	// without a runtime, if their Spec and the host allow it; "" is not to.
	Init string
	// Binary is the name or path of an OCI runtime, for what Init can't do; "" is
	// buildkit-runc or runc, whichever is found first on the PATH.
	Binary string
	// StateDir belongs to this Local alone. It is made if it is absent, and best
	// lies on a tmpfs.
	StateDir string
	// Network is NetworkDefault; nil is the host's network.
	Network NetworkProvider
	DNS     DNS
	// CgroupParent is the cgroup of Specs that have none of their own; "" is the
	// root. "x.slice:prefix:" has systemd make the cgroups, where it runs.
	CgroupParent string
	// Rootless is for a daemon in a user namespace: no cgroups, no /sys.
	Rootless bool
	// HostPID shares the processes of the host, for a daemon that may not mount
	// /proc. A process can then outlive its parent's kill, and sees the daemon.
	HostPID bool
	// NoPivot is for a root on an initramfs.
	NoPivot bool
	// AppArmorProfile is the name of a loaded profile for Sandboxed processes.
	AppArmorProfile string
	// SELinux labels processes and their mounts.
	SELinux bool
	// Devices are those that Specs may name; nil is none.
	Devices *device.Devices
}

// Local runs processes on this machine, each by the first of its engines that can.
type Local struct {
	cfg     Config
	engines []engine // the one that is preferred first
	base    *baseline
	// patience is how long a process may take to die of SIGKILL before the runtime
	// is killed as well.
	patience time.Duration

	mu      sync.Mutex
	running map[string]*session
}

var _ Runner = (*Local)(nil)

// New checks cfg and makes StateDir. It starts nothing; call Reconcile if
// another daemon may have died on the same StateDir.
func New(cfg Config) (*Local, error) {
	if cfg.StateDir == "" {
		return nil, errors.New("processes: no state directory")
	}
	var err error
	if cfg.StateDir, err = filepath.Abs(cfg.StateDir); err != nil {
		return nil, err
	}
	if err := errors.Join(cfg.DNS.check(), checkCgroupParent(cfg.CgroupParent)); err != nil {
		return nil, err
	}
	if cfg.AppArmorProfile != "" && !apparmor.HostSupports() {
		return nil, fmt.Errorf("AppArmor profile %q: the host has no AppArmor; leave the profile out", cfg.AppArmorProfile)
	}
	if cfg.SELinux && !selinux.GetEnabled() {
		return nil, errors.New("SELinux is not enabled on the host; leave it out")
	}
	base, err := newBaseline(context.Background())
	if err != nil {
		return nil, err
	}
	l := &Local{cfg: cfg, base: base, patience: 10 * time.Second, running: map[string]*session{}}
	for _, dir := range []string{l.runsDir(), l.runtimeDir()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("state of processes: %w", err)
		}
	}
	if err := l.openEngines(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *Local) runsDir() string    { return filepath.Join(l.cfg.StateDir, "runs") }
func (l *Local) runtimeDir() string { return filepath.Join(l.cfg.StateDir, "runtime") }

func findRuntime(name string) (string, error) {
	names := []string{name}
	if name == "" {
		names = []string{"buildkit-runc", "runc"}
	}
	for _, n := range names {
		if p, err := exec.LookPath(n); err == nil {
			return filepath.Abs(p)
		}
	}
	return "", fmt.Errorf("no OCI runtime %q on the PATH: install runc or name one in the configuration: %w", names, errdefs.ErrNotFound)
}

// Run implements Runner.
func (l *Local) Run(ctx context.Context, s Spec, io IO, started func()) (err error) {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("run: %w", context.Cause(ctx))
	}
	if s, err = s.checked(); err != nil {
		return fmt.Errorf("run: %w", err)
	}
	ses, err := l.enter(s.ID)
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	defer l.leave(s.ID)

	var undo undoer
	defer func() { err = undo.run(err) }()
	defer l.end(ses)
	r, err := l.prepare(ctx, s, &undo)
	if err != nil {
		return fmt.Errorf("prepare run: %w", err)
	}
	ses.run = r
	stop := l.observe(r)
	err = r.engine.run(ctx, r, io, func() {
		close(ses.started)
		if started != nil {
			started()
		}
	})
	stop()
	return l.explainOOM(r, err)
}

// observe begins to measure r. The cgroup has to be there until stop returns.
func (l *Local) observe(r *run) (stop func()) {
	if r.Observe == nil || l.cfg.Rootless {
		return func() {}
	}
	return meter.Start(cgroupDir(r.spec.Linux.CgroupsPath), r.network.path, r.Observe).Stop
}

// explainOOM adds the reason to the error of a process that hit its memory limit.
func (l *Local) explainOOM(r *run, err error) error {
	var exit *ExitError
	cgroup := cgroupDir(r.spec.Linux.CgroupsPath)
	if r.Resources.Memory != 0 && cgroup != "" && errors.As(err, &exit) && oomKilled(cgroup) {
		exit.Err = fmt.Errorf("%w: limit is %d bytes", ErrOutOfMemory, r.Resources.Memory)
	}
	return err
}

// cleanupTimeout bounds one call of an engine that removes something.
const cleanupTimeout = 20 * time.Second

// undoer collects what has to be undone, in reverse order.
type undoer []func() error

func (u *undoer) add(f func() error) { *u = append(*u, f) }

// run undoes everything and adds what went wrong to err.
func (u undoer) run(err error) error {
	for i := len(u) - 1; i >= 0; i-- {
		if e := u[i](); e != nil {
			err = errors.Join(err, e)
		}
	}
	return err
}
