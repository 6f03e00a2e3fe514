package frontend

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/op"
	"github.com/kiln-build/kiln/builder/schedule"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// maxMounts bounds how many mounts a container has.
const maxMounts = 1000

// Container runs processes on trees of a build, for a frontend or a client that
// looks into them. It lasts until Release or the end of the build. It implements
// gwclient.Container.
type Container struct {
	b      *Bridge
	id     string
	net    pb.NetMode
	op     *op.Container   // nil while it is being made; under Bridge.mu until then
	ctx    context.Context // ends all processes
	cancel context.CancelFunc
	done   chan struct{} // closed when nothing of the container is left

	mu      sync.Mutex
	closed  bool
	users   sync.WaitGroup // processes and readers of files; added to under mu, unless closed
	stopped error          // of a process that was running at the end
}

var _ gwclient.Container = (*Container)(nil)

// NewContainer makes the trees that the request names and mounts them. The id
// is the caller's; it fails with errdefs.ErrAlreadyExists where it is in use.
func (b *Bridge) NewContainer(ctx context.Context, id string, req gwclient.NewContainerRequest) (*Container, error) {
	spec, err := b.containerSpec(ctx, req)
	if err != nil {
		return nil, err
	}
	cctx, cancel := context.WithCancel(b.ctx)
	c := &Container{b: b, id: id, net: req.NetMode, ctx: cctx, cancel: cancel, done: make(chan struct{})}
	if err := b.reserve(c); err != nil {
		cancel()
		return nil, err
	}
	if err := c.mount(ctx, spec); err != nil {
		cancel()
		b.forget(c)
		return nil, err
	}
	return c, nil
}

// mount makes the mounts; after that the container has to be cleaned up.
// Mounting ends early with ctx or with the build.
func (c *Container) mount(ctx context.Context, spec op.ContainerSpec) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(c.ctx, func() { stop(context.Cause(c.ctx)) })()
	lctx, release, err := c.b.cfg.Lease(ctx)
	if err != nil {
		return err
	}
	made, err := c.b.cfg.Exec.NewContainer(lctx, schedule.Job{Sessions: c.b.cfg.Sessions}, spec)
	if err != nil {
		release()
		return err
	}
	c.b.mu.Lock()
	c.op = made
	c.b.mu.Unlock()
	go c.cleanUp(release)
	return nil
}

// containerSpec makes the trees of the request's mounts.
func (b *Bridge) containerSpec(ctx context.Context, req gwclient.NewContainerRequest) (op.ContainerSpec, error) {
	spec := op.ContainerSpec{
		Hostname: req.Hostname, ExtraHosts: req.ExtraHosts, Network: req.NetMode, Platform: platform(req.Platform),
		Proxies: b.cfg.Proxies,
	}
	if len(req.Mounts) > maxMounts {
		return spec, fmt.Errorf("a container with %d mounts; there can be %d: %w", len(req.Mounts), maxMounts, errdefs.ErrInvalidArgument)
	}
	for _, m := range req.Mounts {
		tree, err := b.tree(ctx, m)
		if err != nil {
			return spec, fmt.Errorf("mount %s: %w", m.Dest, err)
		}
		mount := &pb.Mount{
			Dest: m.Dest, Selector: m.Selector, Readonly: m.Readonly, MountType: m.MountType,
			CacheOpt: m.CacheOpt, SecretOpt: m.SecretOpt, SSHOpt: m.SSHOpt,
			Input: int64(pb.Empty), Output: int64(pb.SkipOutput),
		}
		if tree != nil {
			mount.Input = int64(len(spec.Inputs))
			spec.Inputs = append(spec.Inputs, tree)
		}
		spec.Mounts = append(spec.Mounts, mount)
	}
	return spec, nil
}

func platform(p *pb.Platform) ocispec.Platform {
	return platforms.Normalize(ocispec.Platform{OS: p.GetOS(), Architecture: p.GetArchitecture(), Variant: p.GetVariant()})
}

// tree is that of the reference of a mount, or the one with its result id:
// another reference's, or one that an error has told of. There may be none.
func (b *Bridge) tree(ctx context.Context, m gwclient.Mount) (*layer.Layer, error) {
	if m.Ref != nil {
		ref, ok := m.Ref.(*Ref)
		if !ok {
			return nil, fmt.Errorf("the reference is not this build's: %w", errdefs.ErrInvalidArgument)
		}
		return ref.Layer(ctx)
	}
	if m.ResultID == "" {
		return nil, nil
	}
	b.mu.Lock()
	failed := b.failed[m.ResultID]
	b.mu.Unlock()
	if failed != nil {
		return failed, nil
	}
	ref, err := b.Ref(m.ResultID)
	if err != nil {
		return nil, err
	}
	return ref.Layer(ctx)
}

// reserve makes the container known, so that the build doesn't end before it.
func (b *Bridge) reserve(c *Container) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ctx.Err() != nil {
		return fmt.Errorf("the build has ended: %w", errdefs.ErrFailedPrecondition)
	}
	if b.containers[c.id] != nil {
		return fmt.Errorf("container %q: %w", c.id, errdefs.ErrAlreadyExists)
	}
	b.containers[c.id] = c
	b.living.Add(1)
	return nil
}

func (b *Bridge) forget(c *Container) {
	b.mu.Lock()
	delete(b.containers, c.id)
	b.mu.Unlock()
	b.living.Done()
}

// Container gives the container with the id.
func (b *Bridge) Container(id string) (*Container, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.containers[id]; c != nil && c.op != nil {
		return c, nil
	}
	return nil, fmt.Errorf("container %q was released or not created: %w", id, errdefs.ErrNotFound)
}

// cleanUp waits for the container's end and removes it.
func (c *Container) cleanUp(release func()) {
	<-c.ctx.Done()
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.users.Wait()
	c.op.Close(c.ctx)
	release()
	c.b.forget(c)
	close(c.done)
}

// Release kills the container's processes and removes it. If some had to be
// killed, it returns the error of one.
func (c *Container) Release(ctx context.Context) error {
	c.cancel()
	select {
	case <-c.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return c.stopped
}

// enter keeps the container from being removed until users.Done.
func (c *Container) enter() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return fmt.Errorf("container %q is released: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	c.users.Add(1)
	return nil
}

// ReadFile reads a regular file of a mount, as it is now, or a range of it.
func (c *Container) ReadFile(_ context.Context, req gwclient.ReadContainerRequest) (dt []byte, err error) {
	err = c.with(req.MountIndex, func(f files) error {
		dt, err = f.read(req.ReadRequest)
		return err
	})
	return dt, err
}

// StatFile describes a file of a mount. A symbolic link is followed if it leads
// to something in the mount.
func (c *Container) StatFile(_ context.Context, req gwclient.StatContainerRequest) (st *fstypes.Stat, err error) {
	err = c.with(req.MountIndex, func(f files) error {
		st, err = f.stat(req.Path)
		return err
	})
	return st, err
}

// ReadDir lists a directory of a mount.
func (c *Container) ReadDir(_ context.Context, req gwclient.ReadDirContainerRequest) (list []*fstypes.Stat, err error) {
	err = c.with(req.MountIndex, func(f files) error {
		list, err = f.list(req.ReadDirRequest)
		return err
	})
	return list, err
}

func (c *Container) with(mount int, f func(files) error) error {
	if err := c.enter(); err != nil {
		return err
	}
	defer c.users.Done()
	dir, err := c.op.Dir(mount)
	if err != nil {
		return err
	}
	tree, err := openFiles(dir, linksBeneath)
	if err != nil {
		return err
	}
	defer tree.close()
	tree.users = c.op.Users()
	return f(tree)
}
