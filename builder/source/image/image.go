// Package image pulls images: from registries ("docker-image") and from the
// content stores of clients ("oci-layout"). A reference is first pinned to a
// manifest and a config, which takes little; layers are fetched when the
// image's tree is wanted, and only those that are not on this machine.
//
// Nothing is believed that wasn't verified by digest, and content that is here
// is used for a repository only if that repository vouches for it.
package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/registry"
	"github.com/kiln-build/kiln/builder/store"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Config is what a Source stands on.
type Config struct {
	Store      *store.Store
	Layers     *layer.Store
	Sessions   *session.Manager
	Registries *registry.Registries
	// Platform is that of images for which none is asked for.
	Platform ocispec.Platform
}

// Source pulls images. It is safe for concurrent use.
type Source struct {
	cfg   Config
	blobs blobs
	memo  memo

	mu    sync.Mutex
	inUse map[string]int // leases of documents, by what is being fetched on them
}

// New returns a source.
func New(cfg Config) *Source {
	return &Source{cfg: cfg, blobs: blobs{store: cfg.Store}, memo: memo{sessions: cfg.Sessions}, inUse: map[string]int{}}
}

// documentsLife is how long the manifest and the config of an image are kept
// that was only looked at.
const documentsLife = 24 * time.Hour

// labelDocuments is on the leases that keep them.
const labelDocuments = "kiln.build/documents"

// pinned is an image with the place to fetch the rest from.
type pinned struct {
	*image
	from remote
}

// pin finds out what the request means now.
func (s *Source) pin(ctx context.Context, job schedule.Job, req request) (pinned, error) {
	ctx = s.cfg.Store.Context(ctx)
	from, err := s.remote(ctx, job, req)
	if err != nil {
		return pinned{}, err
	}
	p := &puller{
		blobs: &s.blobs, from: from, name: req.String(), platform: req.platform,
		lease: func(ctx context.Context) (context.Context, func(), error) { return s.lease(ctx, req) },
	}
	img, err := s.look(ctx, job, req, p)
	if err != nil {
		return pinned{}, err
	}
	if req.checksum != "" && img.root.Digest != req.checksum {
		return pinned{}, fmt.Errorf("image digest %s for %s does not match expected checksum %s: %w", img.root.Digest, req, req.checksum, errdefs.ErrFailedPrecondition)
	}
	if req.limit > 0 && !req.digestOnly {
		if err := img.limit(req.limit); err != nil {
			return pinned{}, fmt.Errorf("%s: %w", req, err)
		}
	}
	return pinned{img, from}, nil
}

// lease gives a context that keeps what is fetched of the image for a while, and at
// least until release is called.
func (s *Source) lease(ctx context.Context, req request) (_ context.Context, release func(), _ error) {
	if _, ok := leases.FromContext(ctx); ok {
		return ctx, func() {}, nil
	}
	sum := sha256.Sum256([]byte(req.String() + time.Now().Format(time.DateOnly)))
	id := "kiln-documents-" + hex.EncodeToString(sum[:16])
	s.use(id, 1)
	_, err := s.cfg.Store.Leases.Create(ctx, leases.WithID(id), leases.WithExpiration(documentsLife),
		leases.WithLabel(labelDocuments, "true"))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		s.use(id, -1)
		return nil, nil, fmt.Errorf("lease for the documents of %s: %w", req, err)
	}
	return leases.WithLease(ctx, id), func() { s.use(id, -1) }, nil
}

func (s *Source) use(lease string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inUse[lease] += n; s.inUse[lease] == 0 {
		delete(s.inUse, lease)
	}
}

// Forget lets the manifests and configs go that nothing but their leases keeps, and
// that aren't being fetched. Builds that still want them fetch them again.
func (s *Source) Forget(ctx context.Context) error {
	ctx = s.cfg.Store.Context(ctx)
	found, err := s.cfg.Store.Leases.List(ctx, fmt.Sprintf("labels.%q==true", labelDocuments))
	if err != nil {
		return fmt.Errorf("list the leases of image documents: %w", err)
	}
	for _, l := range found {
		if err := s.forget(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("lease %s: %w", l.ID, err)
		}
	}
	return nil
}

// forget removes a lease that nobody uses. Who is about to waits, and makes it anew.
func (s *Source) forget(ctx context.Context, l leases.Lease) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inUse[l.ID] > 0 {
		return nil
	}
	return s.cfg.Store.Leases.Delete(ctx, l)
}

func (s *Source) remote(ctx context.Context, job schedule.Job, req request) (remote, error) {
	if req.layout != nil {
		return s.layoutRemote(ctx, job, req)
	}
	return &registryRemote{
		ref: req.ref, registries: s.cfg.Registries, resolver: s.cfg.Registries.Resolver(job.Sessions),
	}, nil
}

// look finds the image in the order that the request's mode asks for.
func (s *Source) look(ctx context.Context, job schedule.Job, req request, p *puller) (*image, error) {
	if root, ok := s.vouchedFor(ctx, req); ok {
		if img, err := p.find(ctx, root, req); err == nil {
			return img, nil
		}
	}
	if req.mode == modeLocal {
		if img, err := s.local(ctx, req, p); err == nil {
			return img, nil
		}
	}
	root, err := s.memo.do(ctx, job, req, p.from.resolve)
	var img *image
	if err == nil {
		img, err = p.find(ctx, root, req)
	}
	if err == nil {
		err = s.vouch(ctx, p.from, root)
	}
	if err == nil || ctx.Err() != nil || req.mode != modeDefault || req.layout != nil {
		return img, err
	}
	if img, lerr := s.local(ctx, req, p); lerr == nil {
		return img, nil
	}
	return nil, err
}

// vouch notes that the image was had from there, see vouchedFor.
func (s *Source) vouch(ctx context.Context, from remote, root ocispec.Descriptor) error {
	info, err := s.cfg.Store.Content.Info(ctx, root.Digest)
	if errdefs.IsNotFound(err) {
		return nil // only its digest was wanted
	}
	if err != nil {
		return err
	}
	return s.blobs.label(ctx, from, info)
}

// vouchedFor gives the root of an image that is asked for by digest, was had
// from the same repository before and is still here.
func (s *Source) vouchedFor(ctx context.Context, req request) (ocispec.Descriptor, bool) {
	if req.ref.Digest == "" || req.layout != nil {
		return ocispec.Descriptor{}, false
	}
	info, err := s.cfg.Store.Content.Info(ctx, req.ref.Digest)
	if err != nil || !gave(req.ref, info.Labels) {
		return ocispec.Descriptor{}, false
	}
	return ocispec.Descriptor{Digest: info.Digest, Size: info.Size}, true
}

// local finds the image among those of the machine. It must be complete but
// for what its repository can give.
func (s *Source) local(ctx context.Context, req request, p *puller) (*image, error) {
	if req.layout != nil {
		return nil, errdefs.ErrNotFound
	}
	for _, name := range req.ref.localNames() {
		found, err := s.cfg.Store.Images.Get(ctx, name)
		if err != nil {
			continue
		}
		if req.ref.Digest == "" || found.Target.Digest == req.ref.Digest {
			here := *p
			here.from = nowhere{}
			return here.find(ctx, found.Target, req)
		}
	}
	return nil, fmt.Errorf("no image %s on this machine: %w", req, errdefs.ErrNotFound)
}

// key digests what the image's tree is made of. Nobody checks the diff IDs of
// layers that are shown lazily, so that the blobs count there.
func (img *image) key() digest.Digest {
	text := "image\x00" + img.chain().String()
	for _, l := range img.layers {
		if layer.Lazy(l) {
			text += "\x00" + l.Digest.String() + "\x00" + l.Annotations[estargz.TOCJSONDigestAnnotation]
		}
	}
	return digest.FromString(text)
}
