package kit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// makeMirror fills the storage of the registry that the suites start. Under
// these names they look for images before they would turn to docker.io.
func (k *Kit) makeMirror(ctx context.Context) error {
	dir := k.fresh("mirror")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	images, err := k.images(ctx)
	if err != nil {
		return err
	}
	registry, err := startRegistry(ctx, filepath.Join(dir, "data"))
	if err != nil {
		return err
	}
	defer registry.stop()
	for name, i := range images {
		if err := registry.push(ctx, name, i); err != nil {
			return fmt.Errorf("push %s: %w", name, err)
		}
	}
	return nil
}

// images makes all images by name:tag.
func (k *Kit) images(ctx context.Context) (map[string]image, error) {
	layers, err := k.layers(ctx)
	if err != nil {
		return nil, err
	}
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	shell := ocispec.ImageConfig{Env: env, Cmd: []string{"sh"}}
	frontend := ocispec.ImageConfig{
		Entrypoint: []string{"/bin/dockerfile-frontend"},
		Labels: map[string]string{
			"moby.buildkit.frontend.network.none": "true",
			"moby.buildkit.frontend.caps":         "moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests,moby.buildkit.frontend.contexts",
		},
	}
	// An SBOM scanner that finds the same in everything.
	const statement = `{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://spdx.dev/Document","predicate":{"name":"standin"}}`
	scanner := ocispec.ImageConfig{Env: env, Cmd: []string{"/bin/sh", "-c", "echo '" + statement + "' >$BUILDKIT_SCAN_DESTINATION/sbom.spdx.json"}}

	images := map[string]image{}
	for _, c := range []struct {
		config ocispec.ImageConfig
		layers []string
		names  []string
	}{
		{shell, []string{"busybox"}, []string{
			"library/busybox:latest", "library/busybox:stable", "library/busybox:stable-musl", "library/busybox:1.34.1-uclibc",
			"library/busybox_amd64:latest", "amd64/debian:bullseye-20230109-slim",
		}},
		{ocispec.ImageConfig{Env: env, Cmd: []string{"/bin/sh"}}, []string{"alpine"}, []string{"library/alpine:latest"}},
		{ocispec.ImageConfig{}, nil, []string{"tonistiigi/test:nolayers"}},
		{ocispec.ImageConfig{}, []string{"small1"}, []string{"tonistiigi/hellofs:latest"}},
		{ocispec.ImageConfig{}, []string{"foreign", "plain"}, []string{"cpuguy83/buildkit-foreign:latest"}},
		{frontend, []string{"frontend"}, []string{
			"docker/dockerfile:latest", "docker/dockerfile:1",
			"docker/dockerfile-upstream:latest", "docker/dockerfile-upstream:master",
		}},
		{scanner, []string{"busybox"}, []string{"docker/buildkit-syft-scanner:stable-1"}},
	} {
		var its []layer
		for _, name := range c.layers {
			its = append(its, layers[name])
		}
		i, err := newImage(c.config, its...)
		if err != nil {
			return nil, err
		}
		for _, name := range c.names {
			images[name] = i
		}
	}
	return images, nil
}

// layers makes the images' layers by name.
func (k *Kit) layers(ctx context.Context) (map[string]layer, error) {
	busybox, err := k.busyboxTree(ctx)
	if err != nil {
		return nil, err
	}
	alpine, err := k.alpineTree(ctx)
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(k.path("bin/dockerfile-frontend"))
	if err != nil {
		return nil, err
	}
	frontend, one, two := &tree{}, &tree{}, &tree{}
	frontend.dirs(0o755, "bin")
	frontend.file(0o755, "bin/dockerfile-frontend", program)
	one.file(0o644, "one", []byte("one\n"))
	two.file(0o644, "two", []byte("two\n"))

	layers := map[string]layer{}
	for name, t := range map[string]*tree{"busybox": busybox, "alpine": alpine, "frontend": frontend, "small1": one} {
		if layers[name], err = t.packed(); err != nil {
			return nil, err
		}
	}
	if layers["plain"], err = two.plain(); err != nil {
		return nil, err
	}
	if layers["foreign"], err = one.plain(); err != nil {
		return nil, err
	}
	layers["foreign"], err = k.foreign(layers["foreign"])
	return layers, err
}

// foreign makes a layer one that may not be distributed: whoever wants it gets
// it from the web server.
func (k *Kit) foreign(l layer) (layer, error) {
	name := filepath.Join("foreign", l.Digest.Encoded()+".tar")
	l.MediaType = mediaForeign
	l.URLs = []string{"http://" + WebAddress + "/" + name}
	if err := os.MkdirAll(filepath.Join(k.Web(), "foreign"), 0o755); err != nil {
		return layer{}, err
	}
	return l, os.WriteFile(filepath.Join(k.Web(), name), l.content, 0o644)
}
