package build

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/containerd/continuity"
	"github.com/gofrs/flock"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// imageName is containerd's annotation for the full name; the OCI one holds the tag.
const imageName = "io.containerd.image.name"

// tagged returns the manifest that the layout in dir has under tag.
func tagged(dir, tag string) (ocispec.Descriptor, error) {
	index, err := readIndex(dir)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, key := range []string{imageName, ocispec.AnnotationRefName} {
		for _, manifest := range index.Manifests {
			if manifest.Annotations[key] == tag {
				return manifest, nil
			}
		}
	}
	return ocispec.Descriptor{}, fmt.Errorf("its index.json has nothing with the tag %q", tag)
}

func readIndex(dir string) (ocispec.Index, error) {
	var index ocispec.Index
	content, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err != nil {
		return index, err
	}
	if err := json.Unmarshal(content, &index); err != nil {
		return index, fmt.Errorf("%s: %w", filepath.Join(dir, ocispec.ImageIndexFile), err)
	}
	return index, nil
}

// indexCache enters the manifest of an exported cache into the layout in dir.
func indexCache(dir, tag string, exported map[string]string) error {
	text := exported["cache.manifest"]
	if text == "" {
		return nil
	}
	var manifest ocispec.Descriptor
	if err := json.Unmarshal([]byte(text), &manifest); err != nil {
		return fmt.Errorf("cache.manifest in the daemon's answer: %w", err)
	}
	return addToIndex(dir, withName(manifest, "", tag))
}

// indexExport enters an exported image into the layout in dir, under each of its names.
func indexExport(dir string, exported map[string]string) error {
	text := exported["containerimage.descriptor"]
	if text == "" {
		return nil
	}
	decoded, err := base64.StdEncoding.DecodeString(text)
	var image ocispec.Descriptor
	if err == nil {
		err = json.Unmarshal(decoded, &image)
	}
	if err != nil {
		return fmt.Errorf("containerimage.descriptor in the daemon's answer: %w", err)
	}
	names := exported["image.name"]
	if names == "" {
		return addToIndex(dir, withName(image, "", latest))
	}
	for _, name := range strings.Split(names, ",") {
		tag := name
		if parsed, err := reference.Parse(name); err == nil {
			tag = parsed.Object
		}
		if err := addToIndex(dir, withName(image, name, tag)); err != nil {
			return err
		}
	}
	return nil
}

func withName(of ocispec.Descriptor, name, tag string) ocispec.Descriptor {
	of.Annotations = maps.Clone(of.Annotations)
	if of.Annotations == nil {
		of.Annotations = map[string]string{}
	}
	of.Annotations[ocispec.AnnotationRefName] = tag
	if name != "" {
		of.Annotations[imageName] = name
	}
	return of
}

// addToIndex replaces what the layout's index has under the same name. Other clients may
// work on the same layout: the lock is theirs too.
func addToIndex(dir string, manifest ocispec.Descriptor) error {
	path := filepath.Join(dir, ocispec.ImageIndexFile)
	lock := flock.New(path + ".lock")
	if err := lock.Lock(); err != nil {
		return fmt.Errorf("locking %s: %w", path, err)
	}
	defer func() {
		os.Remove(path + ".lock")
		_ = lock.Unlock()
	}()

	index, err := readIndex(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	index.Versioned = specs.Versioned{SchemaVersion: 2}
	if index.MediaType == "" {
		index.MediaType = ocispec.MediaTypeImageIndex
	}
	kept := index.Manifests[:0]
	for _, other := range index.Manifests {
		if other.Annotations[ocispec.AnnotationRefName] != manifest.Annotations[ocispec.AnnotationRefName] ||
			other.Annotations[imageName] != manifest.Annotations[imageName] {
			kept = append(kept, other)
		}
	}
	kept = append(kept, manifest)
	index.Manifests = kept

	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	if err := continuity.AtomicWriteFile(filepath.Join(dir, ocispec.ImageLayoutFile), layout, 0o644); err != nil {
		return err
	}
	content, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return continuity.AtomicWriteFile(path, content, 0o644)
}

// removeUnreferenced deletes the blobs of the layout in dir that its index does not lead to.
func removeUnreferenced(ctx context.Context, store content.Store, dir string) error {
	index, err := readIndex(dir)
	if err != nil {
		return err
	}
	needed := map[digest.Digest]bool{}
	children := images.ChildrenHandler(store)
	err = images.Walk(ctx, images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		needed[desc.Digest] = true
		return children(ctx, desc)
	}), index.Manifests...)
	if err != nil {
		return fmt.Errorf("finding what the cache in %s needs: %w", dir, err)
	}
	return store.Walk(ctx, func(info content.Info) error {
		if needed[info.Digest] {
			return nil
		}
		return store.Delete(ctx, info.Digest)
	})
}
