package export

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/schedule"
)

// pushing returns a function that pushes the image under all names.
func (x *imageExporter) pushing(job schedule.Job, img *built, names []string) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx = x.cfg.Store.Context(ctx)
		for _, name := range names {
			if err := x.pushAs(ctx, job, img, name); err != nil {
				return fmt.Errorf("failed to push %s: %w", name, withDetails(err))
			}
		}
		return nil
	}
}

// pushAs pushes the blobs that the repository lacks, then the manifests.
func (x *imageExporter) pushAs(ctx context.Context, job schedule.Job, img *built, name string) error {
	ref, err := pushRef(name, img.root.Digest, x.byDigest)
	if err != nil {
		return err
	}
	resolver, err := x.cfg.Registry.Resolver(job.Sessions, ref, x.insecure)
	if err != nil {
		return err
	}
	to, err := resolver.Pusher(ctx, ref)
	if err != nil {
		return err
	}
	label, err := docker.AppendDistributionSourceLabel(x.cfg.Store.Content, ref)
	if err != nil {
		return err
	}
	ctx, release, err := x.lease(ctx) // for what has to be fetched first
	if err != nil {
		return err
	}
	defer release()
	p := &pusher{Exporters: x.Exporters, to: to, label: label, pulled: img.pulled(), job: job, progress: job.Progress}
	if err := p.pushBlobs(ctx, img.blobs()); err != nil {
		return err
	}
	defer job.Progress.Begin("pushing manifest for " + ref).Done()
	for _, desc := range img.manifests() {
		if err := p.pushOne(ctx, desc, &counter{}); err != nil {
			return err
		}
	}
	return nil
}

// pushRef is the full name of what is pushed. The digest in it tells the pusher
// which manifest the tag is for.
func pushRef(name string, root digest.Digest, byDigest bool) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if !byDigest {
		full, err := reference.WithDigest(reference.TagNameOnly(named), root)
		if err != nil {
			return "", err
		}
		return full.String(), nil
	}
	if !reference.IsNameOnly(named) {
		return "", fmt.Errorf("can't push tagged ref %s by digest: %w", named, errdefs.ErrInvalidArgument)
	}
	return named.Name(), nil
}

// blobs are the configs and layers of the image, each once.
func (b *built) blobs() []ocispec.Descriptor {
	var all []ocispec.Descriptor
	seen := map[digest.Digest]bool{}
	for _, p := range b.platforms {
		for _, desc := range append([]ocispec.Descriptor{p.Config.Desc}, p.Layers...) {
			if !seen[desc.Digest] {
				seen[desc.Digest] = true
				all = append(all, desc)
			}
		}
	}
	return all
}

// manifests are those of the platforms, each once, and then the index.
func (b *built) manifests() []ocispec.Descriptor {
	var all []ocispec.Descriptor
	seen := map[digest.Digest]bool{}
	for _, p := range b.platforms {
		if desc := p.Manifest.Desc; !seen[desc.Digest] {
			seen[desc.Digest] = true
			all = append(all, desc)
		}
	}
	if b.index != nil {
		all = append(all, b.index.Desc)
	}
	return all
}

// pulled are the annotations of the layers that say where they came from.
func (b *built) pulled() map[digest.Digest]map[string]string {
	from := map[digest.Digest]map[string]string{}
	for _, p := range b.platforms {
		for _, blob := range p.blobs {
			from[blob.Desc.Digest] = blob.Desc.Annotations
		}
	}
	return from
}

// pusher puts content into one repository.
type pusher struct {
	*Exporters
	to       remotes.Pusher
	label    images.HandlerFunc // remembers that the repository has a blob
	pulled   map[digest.Digest]map[string]string
	job      schedule.Job
	progress event.Progress
}

// pushParallel is how many blobs of an image go to a registry at a time.
const pushParallel = 4

// pushBlobs pushes the blobs that aren't to be had elsewhere only.
func (p *pusher) pushBlobs(ctx context.Context, blobs []ocispec.Descriptor) error {
	item := p.progress.Begin("pushing layers")
	defer item.Done()
	var total int64
	var sent atomic.Int64
	for _, desc := range blobs {
		total += desc.Size
	}
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(pushParallel)
	for _, desc := range blobs {
		if images.IsNonDistributable(desc.MediaType) {
			continue
		}
		eg.Go(func() error {
			return p.pushOne(ctx, desc, &counter{tell: func(n int64) { item.Set(sent.Add(n), total) }})
		})
	}
	return eg.Wait()
}

// pushOne pushes one piece of content unless the repository has it.
func (p *pusher) pushOne(ctx context.Context, desc ocispec.Descriptor, count *counter) error {
	return p.retry.do(ctx, p.progress, func() error {
		source, err := p.source(ctx, desc)
		if err != nil {
			return err
		}
		if err := p.send(ctx, source, count); err != nil {
			count.set(0)
			return fmt.Errorf("%s: %w", desc.Digest, err)
		}
		count.set(desc.Size)
		if images.IsLayerType(desc.MediaType) {
			if _, err := p.label(ctx, desc); err != nil && !errdefs.IsNotFound(err) {
				log.G(ctx).WithError(err).Warnf("export: no label on %s", desc.Digest)
			}
		}
		return nil
	})
}

// source tells the pusher where the registry may have the blob: it can mount
// that into the repository without a transfer.
func (p *pusher) source(ctx context.Context, desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	info, err := p.cfg.Store.Content.Info(ctx, desc.Digest)
	if err != nil && !errdefs.IsNotFound(err) {
		return desc, fmt.Errorf("%s to push: %w", desc.Digest, err)
	}
	desc.Annotations = map[string]string{}
	for _, known := range []map[string]string{p.pulled[desc.Digest], info.Labels} {
		for k, v := range known {
			if strings.HasPrefix(k, labels.LabelDistributionSource+".") {
				desc.Annotations[k] = v
			}
		}
	}
	return desc, nil
}

func (p *pusher) send(ctx context.Context, desc ocispec.Descriptor, count *counter) error {
	w, err := p.to.Push(ctx, desc)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.Close() // says nothing that Copy doesn't
	blob, err := p.cfg.Store.Content.ReaderAt(ctx, desc)
	if errdefs.IsNotFound(err) && p.cfg.Fetch != nil { // it was only shown lazily, and can't be mounted from there
		from := desc
		from.Annotations = p.pulled[desc.Digest]
		if err = p.cfg.Fetch(ctx, p.job, from); err == nil {
			blob, err = p.cfg.Store.Content.ReaderAt(ctx, desc)
		}
	}
	if err != nil {
		return fmt.Errorf("the registry doesn't have it: %w", err)
	}
	defer blob.Close()
	count.SectionReader = io.NewSectionReader(blob, 0, desc.Size)
	return content.Copy(ctx, w, count, desc.Size, desc.Digest)
}

// counter reads a blob and tells how far it has come.
type counter struct {
	*io.SectionReader
	// tell gets the bytes since it was called last; less than none where they
	// have to be sent again. It may be nil.
	tell func(int64)
	told int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.SectionReader.Read(b)
	c.set(c.told + int64(n))
	return n, err
}

// Seek is what the copying does when the pusher starts again.
func (c *counter) Seek(offset int64, whence int) (int64, error) {
	at, err := c.SectionReader.Seek(offset, whence)
	if err == nil {
		c.set(at)
	}
	return at, err
}

func (c *counter) set(done int64) {
	if c.tell != nil {
		c.tell(done - c.told)
	}
	c.told = done
}
