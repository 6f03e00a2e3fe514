package op

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/idmap"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/proxy"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ContainerSpec says what the processes of a container share.
type ContainerSpec struct {
	// Mounts have the place of their tree in Inputs as Input, or -1; one is at /.
	// Outputs don't count: what is written is thrown away.
	Mounts     []*pb.Mount
	Inputs     []*layer.Layer
	Hostname   string
	ExtraHosts []*pb.HostIP
	Network    pb.NetMode
	// Proxies makes a proxy that stands before the network; nil: there is none.
	Proxies *proxy.Authority
	// Platform is that of the programs; what it lacks is as here.
	Platform ocispec.Platform
}

// Container is a set of mounts on which processes run beside each other, for
// somebody who looks at them. The first one makes the sandbox that the others
// join and that ends with it. The mounts are there before it is known whether that
// will be an insecure one: where users are remapped, its users are too. It is safe for
// concurrent use.
type Container struct {
	cfg  *ExecConfig
	job  schedule.Job
	spec ContainerSpec
	m    *mounting
	id   string

	first sync.Once
	up    chan struct{} // closed when the first process runs
	down  chan struct{} // closed when it has ended, or did not start
}

// NewContainer makes the mounts of a container. Its trees belong to the lease
// that ctx carries; it must be closed.
func (cfg *ExecConfig) NewContainer(ctx context.Context, job schedule.Job, spec ContainerSpec) (_ *Container, err error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	c := &Container{
		cfg: cfg, job: job, spec: spec, id: newID(),
		m:  newMounting(cfg, job, spec.Inputs),
		up: make(chan struct{}), down: make(chan struct{}),
	}
	c.m.users = cfg.Users
	if err := c.m.all(ctx, spec.Mounts); err != nil {
		c.m.close(ctx)
		return nil, err
	}
	return c, nil
}

func (s *ContainerSpec) check() error {
	if _, ok := networks[s.Network]; !ok {
		return fmt.Errorf("invalid network mode %d: %w", s.Network, errdefs.ErrInvalidArgument)
	}
	root := false
	for _, m := range s.Mounts {
		if err := graph.CheckMount(m, len(s.Inputs)); err != nil {
			return fmt.Errorf("mount %s: %w: %w", m.Dest, err, errdefs.ErrInvalidArgument)
		}
		if m.Dest != pb.RootMount {
			continue
		}
		if m.MountType != pb.MountType_BIND {
			return fmt.Errorf("invalid mount type %s for /: %w", m.MountType, errdefs.ErrInvalidArgument)
		}
		root = true
	}
	if !root {
		return fmt.Errorf("root mount is required: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// Process is one process of a container.
type Process struct {
	Args, Env []string
	SecretEnv []*pb.SecretEnv
	User, Cwd string
	Terminal  bool
	Security  pb.SecurityMode
	// RemoveStubsRecursive counts for the first process only.
	RemoveStubsRecursive bool
}

// Up is closed when the first process runs.
func (c *Container) Up() <-chan struct{} { return c.up }

// Run runs a process to its end; it returns what sandbox.Runner does.
func (c *Container) Run(ctx context.Context, p Process, io sandbox.IO) error {
	security, ok := securities[p.Security]
	if !ok {
		return fmt.Errorf("invalid security mode %d: %w", p.Security, errdefs.ErrInvalidArgument)
	}
	path := defaultPath
	if c.spec.Platform.OS == "windows" {
		path = defaultWindowsPath
	}
	vars := p.Env
	if p.Terminal {
		vars = withDefault(vars, "TERM", "xterm")
	}
	env, err := c.cfg.environment(ctx, c.job, environment{vars: vars, path: path, secrets: p.SecretEnv})
	if err != nil {
		return err
	}
	proc := sandbox.Process{Args: p.Args, Env: env, Cwd: p.Cwd, User: p.User, Security: security, Terminal: p.Terminal}
	if proc.Cwd == "" {
		proc.Cwd = "/"
	}
	mine := false
	c.first.Do(func() { mine = true })
	if !mine {
		return c.join(ctx, proc, io)
	}
	defer close(c.down)
	spec := c.sandbox(proc)
	spec.RemoveStubsRecursive = p.RemoveStubsRecursive
	if c.spec.Proxies != nil {
		spec.Proxy = c.spec.Proxies.New()
	}
	err = c.cfg.Runner.Run(ctx, spec, io, func() { close(c.up) })
	return c.cfg.explain(err, c.spec.Platform, c.m.users)
}

// errEnded is why a process can't join the first one.
var errEnded = errors.New("the first process of the container has ended")

// join runs a process beside the first one.
func (c *Container) join(ctx context.Context, p sandbox.Process, io sandbox.IO) error {
	select {
	case <-c.up:
	case <-c.down:
	case <-ctx.Done():
		return fmt.Errorf("run %q: %w", p.Args, context.Cause(ctx))
	}
	select {
	case <-c.down:
		return fmt.Errorf("run %q: %w; make a new container: %w", p.Args, errEnded, errdefs.ErrFailedPrecondition)
	default:
		return c.cfg.Runner.Exec(ctx, c.id, p, io, nil)
	}
}

// sandbox is that of the first process.
func (c *Container) sandbox(p sandbox.Process) sandbox.Spec {
	return sandbox.Spec{
		ID:            c.id,
		Root:          c.m.root,
		ReadonlyRoot:  c.m.rootReadonly,
		Mounts:        c.m.mounts,
		Args:          p.Args,
		Env:           p.Env,
		Cwd:           p.Cwd,
		User:          p.User,
		Hostname:      c.spec.Hostname,
		ExtraHosts:    hosts(c.spec.ExtraHosts),
		CgroupParent:  c.cfg.CgroupParent,
		Network:       networks[c.spec.Network],
		Resources:     c.cfg.Limits,
		Users:         c.m.users,
		UserNamespace: c.cfg.Emulation.Namespace(c.spec.Platform, c.m.users),
		Shared:        true,
		Security:      p.Security,
		Terminal:      p.Terminal,
	}
}

// Dir is where the tree of a mount lies on the host. Processes may be changing
// it.
func (c *Container) Dir(mount int) (string, error) {
	if mount < 0 || mount >= len(c.spec.Mounts) {
		return "", fmt.Errorf("mount %d: the container has %d: %w", mount, len(c.spec.Mounts), errdefs.ErrInvalidArgument)
	}
	m := c.spec.Mounts[mount]
	if dir, ok := c.m.dirs[m]; ok {
		return dir, nil
	}
	return "", fmt.Errorf("mount %d at %s is of type %s, which has no files outside of the container: %w", mount, m.Dest, m.MountType, errdefs.ErrInvalidArgument)
}

// Users are those of the processes on the host, for whom the files in Dir look like
// theirs; nil are the same.
func (c *Container) Users() *idmap.Map { return c.m.users }

// Close undoes the mounts. All processes must have ended; ctx may have.
func (c *Container) Close(ctx context.Context) { c.m.close(ctx) }
