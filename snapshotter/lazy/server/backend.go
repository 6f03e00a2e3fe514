package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/stargz-snapshotter/estargz"
	stargzfs "github.com/containerd/stargz-snapshotter/fs"
	"github.com/containerd/stargz-snapshotter/fs/config"
	"github.com/containerd/stargz-snapshotter/fs/layer"
	"github.com/containerd/stargz-snapshotter/fs/source"
	"github.com/containerd/stargz-snapshotter/snapshot"

	"github.com/kiln-build/kiln/snapshotter/lazy"
)

// backend is stargz-snapshotter's filesystem under some settings.
type backend struct {
	settings lazy.Settings
	fs       snapshot.FileSystem
	hosts    docker.RegistryHosts
	keys     *keychain
	cri      *criService // nil for none
	ask      lazy.Authorize

	mu       sync.Mutex
	verified map[string]string // TOC digest, by reference and digest
}

func cacheDir(root string) string { return filepath.Join(root, "cache") }

func newBackend(ctx context.Context, cfg Config, s lazy.Settings, ask lazy.Authorize) (_ *backend, err error) {
	b := &backend{settings: s, ask: ask, verified: map[string]string{}}
	if b.hosts, err = cfg.Hosts(s.Registries); err != nil {
		return nil, err
	}
	b.keys = newKeychain(s)
	if s.CRI.Socket != "" {
		if b.cri, err = b.keys.serveCRI(s.CRI); err != nil {
			b.retire()
			return nil, fmt.Errorf("image service for CRI: %w", err)
		}
	}
	opaque := layer.OverlayOpaqueTrusted
	if user, err := overlayutils.NeedsUserXAttr(cfg.Root); err != nil {
		log.G(ctx).WithError(err).Debug("lazy layers: whether overlays need user xattrs isn't known")
	} else if user {
		opaque = layer.OverlayOpaqueUser
	}
	b.fs, err = stargzfs.NewFilesystem(cacheDir(cfg.Root), stargzConfig(s),
		stargzfs.WithGetSources(b.sources), stargzfs.WithOverlayOpaqueType(opaque))
	if err != nil {
		b.retire()
		return nil, err
	}
	return b, nil
}

// retire ends what serves others; what is mounted is served on.
func (b *backend) retire() {
	if b.cri != nil {
		b.cri.Stop()
		b.cri = nil
	}
	b.keys.close()
}

func stargzConfig(s lazy.Settings) config.Config {
	fetch := s.FetchTimeout
	if fetch <= 0 {
		fetch = time.Minute
	}
	return config.Config{
		PrefetchSize:       s.PrefetchSize,
		PrefetchTimeoutSec: 5,
		NoBackgroundFetch:  s.NoBackgroundFetch,
		NoPrometheus:       true,
		BlobConfig: config.BlobConfig{
			FetchTimeoutSec: max(1, int64(fetch/time.Second)),
			ValidInterval:   30,
		},
		DirectoryCacheConfig: config.DirectoryCacheConfig{Direct: true},
	}
}

// mount shows a layer. It returns when ctx ends: what has been begun then ends by
// itself, leaves nothing mounted, and closes late.
func (b *backend) mount(ctx context.Context, dir string, labels map[string]string) (late <-chan struct{}, err error) {
	src, err := b.sources(labels)
	if err != nil {
		return nil, err
	}
	name, toc := src[0].Name.String()+"/"+src[0].Target.Digest.String(), labels[estargz.TOCJSONDigestAnnotation]
	b.mu.Lock()
	known := b.verified[name]
	b.mu.Unlock()
	// The library verifies a layer that it has at hand only once.
	if known != "" && known != toc {
		return nil, fmt.Errorf("the table of contents of layer %s is %s, not %s: %w", src[0].Target.Digest, known, toc, errdefs.ErrDataLoss)
	}
	done := make(chan error) // not buffered: who is late must not find room
	gone, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		err := b.fs.Mount(ctx, dir, labels)
		select {
		case <-gone:
			if err == nil {
				err = errors.Join(b.fs.Unmount(context.WithoutCancel(ctx), dir), lazy.Detach(dir))
			}
			if err != nil {
				log.G(ctx).WithError(err).WithField("dir", dir).Debug("a layer that came too late")
			}
		case done <- err:
		}
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		close(gone)
		return ended, fmt.Errorf("layer %s of %s can't be shown in time, the registry may be down: %w", src[0].Target.Digest, src[0].Name, context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("layer %s of %s: %w", src[0].Target.Digest, src[0].Name, err)
	}
	b.mu.Lock()
	b.verified[name] = toc
	b.mu.Unlock()
	return nil, nil
}

// The labels of CRI's unpacking, and those of stargz's that mean the same.
var criLabels = map[string]string{
	"containerd.io/snapshot/cri.image-ref":    "containerd.io/snapshot/remote/stargz.reference",
	"containerd.io/snapshot/cri.layer-digest": "containerd.io/snapshot/remote/stargz.digest",
	"containerd.io/snapshot/cri.image-layers": "containerd.io/snapshot/remote/stargz.layers",
}

// sources says where the layer of the labels comes from, and who asks for it.
// URLs in the image are ignored: it doesn't send us elsewhere.
func (b *backend) sources(labels map[string]string) ([]source.Source, error) {
	own := map[string]string{}
	for cri, stargz := range criLabels {
		for _, key := range []string{cri, stargz} {
			v := labels[key]
			if was := own[stargz]; v != "" && was != "" && v != was {
				// One of them is the image's idea.
				return nil, fmt.Errorf("the labels %s and %s say different things: %w", cri, stargz, errdefs.ErrInvalidArgument)
			}
			if v != "" {
				own[stargz] = v
			}
		}
	}
	src, err := source.FromDefaultLabels(b.hostsFor(labels[lazy.LabelGrant]))(own)
	if err != nil {
		return nil, fmt.Errorf("labels of a layer: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	for i := range src {
		src[i].Target.Annotations = maps.Clone(labels)
	}
	return src, nil
}
