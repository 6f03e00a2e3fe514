package snapshotter

import "context"

// Lazy shows layers whose files are fetched when they are read. What it can't
// show is unpacked as any other layer, so an error of Mount costs nothing but
// that. Calls for different directories come at the same time, those for one
// directory one after the other. All have deadlines.
type Lazy interface {
	// Mount shows the layer that the labels describe on dir, an empty directory,
	// read-only, and returns once it was verified and can be read. The labels are
	// those of containerd's and stargz's unpackers ("containerd.io/snapshot/...",
	// among them the reference, the digest and the TOC's). Any error means that
	// nothing is mounted; errdefs.ErrNotImplemented that the layer isn't one that
	// can be shown lazily. It is called again with the same labels, maybe by
	// another process, when what is mounted doesn't answer any more.
	Mount(ctx context.Context, dir string, labels map[string]string) error
	// Check returns nil if what Mount put on dir answers: files that weren't read
	// yet can be fetched. Where there is no mount, or its server has gone, it
	// mounts again if it can. errdefs.ErrUnavailable says that files can't be
	// fetched now; the mount may be in use and is left as it is. After any other
	// error the directory is unmounted and mounted again.
	Check(ctx context.Context, dir string, labels map[string]string) error
	// Unmount undoes Mount and gives up what was fetched for the directory. A
	// mount whose server has gone is detached, and a directory that isn't mounted
	// is no error.
	Unmount(ctx context.Context, dir string) error
}
