package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/containerd/containerd/v2/core/content"
	digest "github.com/opencontainers/go-digest"
)

// latest is the tag under which a local cache is kept unless another is asked for.
const latest = "latest"

// layouts offers directories in OCI layout as sources of images.
func (o *offer) layouts(layouts map[string]string) error {
	for id, dir := range layouts {
		store, err := openStore(dir)
		if err != nil {
			return fmt.Errorf("oci-layout %q: %w", id, err)
		}
		o.stores["oci:"+id] = store
	}
	return nil
}

// caches offers the directories that local caches are in. An import that cannot be used
// is left out with a warning: a build does without.
func (o *offer) caches(request *Request, warn func(string)) error {
	for _, to := range request.CacheExports {
		if err := o.exportCache(to); err != nil {
			return fmt.Errorf("cache export: %w", err)
		}
	}
	for _, from := range request.CacheImports {
		switch from.Type {
		case "local":
			dir := from.Attrs["src"]
			if dir == "" {
				return errors.New("cache import: type=local needs src=DIR")
			}
			found, store, err := openCache(from)
			if err != nil {
				warn(fmt.Sprintf("local cache %s is not used: %v", dir, err))
				continue
			}
			from = found
			if _, writable := o.stores["local:"+dir]; !writable {
				o.stores["local:"+dir] = store
			}
		case "registry":
			if from.Attrs["ref"] == "" {
				return errors.New("cache import: type=registry needs ref=IMAGE")
			}
		}
		o.imports = append(o.imports, from)
	}
	return nil
}

func (o *offer) exportCache(to Cache) error {
	switch to.Type {
	case "registry":
		if to.Attrs["ref"] == "" {
			return errors.New("type=registry needs ref=IMAGE")
		}
	case "local":
		dir := to.Attrs["dest"]
		if dir == "" {
			return errors.New("type=local needs dest=DIR")
		}
		reset := false
		if text, given := to.Attrs["reset"]; given {
			var err error
			if reset, err = strconv.ParseBool(text); err != nil {
				return fmt.Errorf("reset: %w", err)
			}
		}
		store, err := newStore(dir)
		if err != nil {
			return err
		}
		o.stores["local:"+dir] = store
		o.cleaning = append(o.cleaning, func() { tidy(dir) })
		tag := latest
		if given, ok := to.Attrs["tag"]; ok {
			tag = given
		}
		o.finishing = append(o.finishing, func(ctx context.Context, exported map[string]string) error {
			if err := indexCache(dir, tag, exported); err != nil || !reset {
				return err
			}
			return removeUnreferenced(ctx, store, dir)
		})
	}
	return nil
}

// openCache returns the import with the digest of its manifest, which it looks up by tag
// if there is none.
func openCache(from Cache) (Cache, content.Store, error) {
	dir := from.Attrs["src"]
	store, err := openStore(dir)
	if err != nil {
		return from, nil, err
	}
	attrs := maps.Clone(from.Attrs)
	if attrs["digest"] == "" {
		tag := latest
		if given, ok := attrs["tag"]; ok {
			tag = given
		}
		found, err := tagged(dir, tag)
		if err != nil {
			return from, nil, err
		}
		attrs["digest"] = found.Digest.String()
	}
	wanted, err := digest.Parse(attrs["digest"])
	if err != nil {
		return from, nil, fmt.Errorf("digest %q: %w", attrs["digest"], err)
	}
	if _, err := store.Info(context.Background(), wanted); err != nil {
		return from, nil, err
	}
	return Cache{Type: from.Type, Attrs: attrs}, store, nil
}
