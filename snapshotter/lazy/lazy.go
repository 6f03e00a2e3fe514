// Package lazy shows layers of images whose files are fetched when they are
// read: eStargz and zstd:chunked, through stargz-snapshotter and FUSE. What a
// layer holds is verified by the digest of its table of contents.
//
// The files are served by a process of its own (lazy/server), which is started
// here and outlives this one, so that a restart of the daemon takes no files
// away from containers. It keeps nothing: which layers are to be shown is known
// to the snapshotter alone, and [Filesystem.Check] shows one anew that died with
// its process. The two speak stargz-snapshotter's fuse-manager protocol on a
// socket below [Config.Root].
package lazy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/fusemanager/api"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Config is what a Filesystem stands on.
type Config struct {
	// Root is a directory of its own; made with mode 0700. Its path is short
	// enough for sockets in it.
	Root string
	// Command starts the process that serves the files; Root is appended to it.
	Command []string
	// Settings are what that process is told.
	Settings Settings
	// Authorize, where it isn't nil, makes requests to registries on behalf of
	// those who asked for a layer, see [LabelGrant].
	Authorize Authorize
}

// Filesystem shows layers on directories. It is safe for concurrent use. No call
// takes much longer than the deadlines of its settings.
type Filesystem struct {
	cfg    Config
	broker *broker
	end    context.CancelFunc // of keepRunning
	ended  chan struct{}      // closed after it; nil where it isn't needed

	mu   sync.Mutex // held while the process is looked for or started
	conn *grpc.ClientConn
}

// New gives a filesystem. Its process isn't started before something is shown,
// unless the settings want its service for CRI clients.
func New(ctx context.Context, cfg Config) (*Filesystem, error) {
	root, err := filepath.Abs(cfg.Root)
	if err != nil || cfg.Root == "" {
		return nil, fmt.Errorf("lazy layers: bad root directory %q", cfg.Root)
	}
	cfg.Root = root
	if err := os.MkdirAll(cfg.Root, 0o700); err != nil {
		return nil, fmt.Errorf("lazy layers: %w", err)
	}
	f := &Filesystem{cfg: cfg}
	if cfg.Authorize != nil {
		if f.broker, err = serveBroker(brokerSocket(cfg.Root), cfg.Authorize); err != nil {
			return nil, fmt.Errorf("lazy layers: %w", err)
		}
	}
	if cfg.Settings.CRI.Socket != "" || f.answers() {
		// Mounts of an earlier daemon get the settings of this one.
		ctx, cancel := context.WithTimeout(ctx, startTimeout)
		defer cancel()
		if _, err := f.connect(ctx); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	if cfg.Settings.CRI.Socket != "" {
		f.ended = make(chan struct{})
		ctx, f.end = context.WithCancel(context.WithoutCancel(ctx))
		go f.keepRunning(ctx)
	}
	return f, nil
}

// keepRunning has the process there for CRI clients, which can't start it, and
// has it know that the daemon is there.
func (f *Filesystem) keepRunning(ctx context.Context) {
	defer close(f.ended)
	for tick := time.NewTicker(time.Second); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		start, cancel := context.WithTimeout(ctx, startTimeout)
		if _, err := f.connect(start); err != nil && ctx.Err() == nil {
			log.G(ctx).WithError(err).Warn("kubelets can't be served")
		}
		cancel()
	}
}

// Close gives up the process, which serves on as long as something is mounted.
// That of a nil one does nothing.
func (f *Filesystem) Close() error {
	if f == nil {
		return nil
	}
	if f.ended != nil {
		f.end()
		<-f.ended
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	if f.conn != nil {
		errs = append(errs, f.conn.Close())
		f.conn = nil
	}
	if f.broker != nil {
		errs = append(errs, f.broker.Close())
		f.broker = nil
	}
	return errors.Join(errs...)
}

// Mount shows the layer that the labels describe on an empty directory,
// read-only, and returns once it was verified. Layers that can't be shown lazily
// are errdefs.ErrNotImplemented, without a look at the registry. After any error
// nothing is mounted.
func (f *Filesystem) Mount(ctx context.Context, dir string, labels map[string]string) error {
	if labels[estargz.TOCJSONDigestAnnotation] == "" {
		return fmt.Errorf("the layer's blob has no table of contents that could be verified: %w", errdefs.ErrNotImplemented)
	}
	err := f.call(ctx, f.cfg.Settings.Deadline()+margin, func(ctx context.Context, c api.StargzFuseManagerServiceClient) error {
		_, err := c.Mount(ctx, &api.MountRequest{Mountpoint: dir, Labels: labels})
		return err
	})
	if err != nil {
		return errors.Join(fmt.Errorf("show a layer lazily: %w", err), f.Unmount(context.WithoutCancel(ctx), dir))
	}
	return nil
}

// Check makes sure that the layer that Mount put on dir can be read: it shows it
// anew where its process has gone, and connects to the registry again where it
// must. errdefs.ErrUnavailable means that files which weren't fetched yet can't be
// read now; the mount, if there is one, may be in use and is left as it is.
func (f *Filesystem) Check(ctx context.Context, dir string, labels map[string]string) error {
	err := f.call(ctx, f.cfg.Settings.Deadline()+margin, func(ctx context.Context, c api.StargzFuseManagerServiceClient) error {
		_, err := c.Check(ctx, &api.CheckRequest{Mountpoint: dir, Labels: labels})
		return err
	})
	if err != nil {
		return fmt.Errorf("a lazily shown layer can't be read: %w: %w", err, errdefs.ErrUnavailable)
	}
	return nil
}

// Unmount undoes Mount and gives up what was fetched for the directory. A mount
// whose process has gone is detached; a directory that isn't mounted is no error.
func (f *Filesystem) Unmount(ctx context.Context, dir string) error {
	if mounted, err := Mounted(dir); mounted && err == nil && f.answers() {
		err := f.call(ctx, unmountTimeout, func(ctx context.Context, c api.StargzFuseManagerServiceClient) error {
			_, err := c.Unmount(ctx, &api.UnmountRequest{Mountpoint: dir})
			return err
		})
		if err == nil {
			return nil
		}
	}
	return Detach(dir)
}

// Deadlines of calls whose length isn't for the settings to say.
const (
	startTimeout   = 15 * time.Second
	unmountTimeout = 10 * time.Second
	margin         = 2 * time.Second // for the process to say what took too long
)

// call calls the process, and a second time where it turns out to have ended or
// to hang.
func (f *Filesystem) call(ctx context.Context, limit time.Duration, do func(context.Context, api.StargzFuseManagerServiceClient) error) error {
	for attempt := 1; ; attempt++ {
		conn, err := f.callOnce(ctx, limit, do)
		if attempt > 1 || !lost(ctx, err) || f.uses(conn) && f.answers() {
			return errgrpc.ToNative(err)
		}
		f.disconnect(conn)
	}
}

// lost says whether a call may have failed for its connection: a call that goes
// on at the same time closes one whose process has ended.
func lost(ctx context.Context, err error) bool {
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.Canceled && ctx.Err() == nil
}

// uses says whether the next call would have this connection.
func (f *Filesystem) uses(conn *grpc.ClientConn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.conn == conn
}

// disconnect has the next call look for the process, unless one has done so
// already.
func (f *Filesystem) disconnect(conn *grpc.ClientConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if conn != nil && f.conn == conn {
		f.conn.Close()
		f.conn = nil
	}
}

// callOnce returns the connection too, nil if there is none.
func (f *Filesystem) callOnce(ctx context.Context, limit time.Duration, do func(context.Context, api.StargzFuseManagerServiceClient) error) (*grpc.ClientConn, error) {
	start, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	conn, err := f.connect(start)
	if err != nil {
		return nil, err
	}
	ctx, cancel = context.WithTimeout(ctx, limit)
	defer cancel()
	return conn, do(ctx, api.NewStargzFuseManagerServiceClient(conn))
}

// Mounted tells whether something is mounted on dir. It doesn't ask what is
// mounted there, which may not answer.
func Mounted(dir string) (bool, error) {
	var here, up unix.Statx_t
	const flags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
	err := unix.Statx(unix.AT_FDCWD, dir, flags, unix.STATX_MNT_ID, &here)
	if errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) {
		return true, nil
	}
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err == nil {
		err = unix.Statx(unix.AT_FDCWD, filepath.Dir(dir), flags, unix.STATX_MNT_ID, &up)
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", dir, err)
	}
	return here.Mnt_id != up.Mnt_id, nil
}

// Detach takes off whatever is mounted on dir, also while it is in use.
func Detach(dir string) error {
	for {
		err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
}
