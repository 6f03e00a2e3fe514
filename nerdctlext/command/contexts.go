package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kiln-build/kiln/nerdctlext/build"
)

// addContext adds one --build-context to the request.
func addContext(p *plan, text string) error {
	name, where, ok := strings.Cut(text, "=")
	if !ok || name == "" || where == "" {
		return errors.New("expected NAME=DIR, NAME=URL, NAME=docker-image://IMAGE or NAME=oci-layout://DIR")
	}
	key := "context:" + contextName(name)
	for _, prefix := range []string{"docker://", "container-image://"} {
		if image, ok := strings.CutPrefix(where, prefix); ok {
			where = "docker-image://" + image
		}
	}
	if layout, ok := strings.CutPrefix(where, "oci-layout://"); ok {
		return addLayout(p, key, layout)
	}
	if isRemote(where) || strings.HasPrefix(where, "target:") || strings.HasPrefix(where, "input:") {
		p.request.Options[key] = where
		return nil
	}
	info, err := os.Stat(where)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", where)
	}
	local := name
	if local == "context" || local == "dockerfile" {
		local = "_" + local
	}
	p.request.Locals[local] = build.Local{Dir: where}
	p.request.Options[key] = "local:" + local
	return nil
}

// contextName is the form in which the frontend looks a name up: that of an image
// without the defaults, where it can be one.
func contextName(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return strings.TrimSuffix(reference.FamiliarString(named), ":latest")
}

// addLayout adds DIR[:TAG][@DIGEST], offering the directory under an id of its own.
func addLayout(p *plan, key, text string) error {
	path, wanted, pinned := strings.Cut(text, "@")
	tag := ""
	if i := strings.LastIndex(path, ":"); i >= 0 && !strings.Contains(path[i:], "/") {
		path, tag = path[:i], path[i+1:]
	}
	id, err := digest.Parse(wanted)
	if !pinned {
		id, err = manifestIn(path, tag)
	}
	if err != nil {
		return err
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	store := digest.FromString(absolute).Encoded()[:25]
	p.request.Layouts[store] = path
	p.request.Options[key] = fmt.Sprintf("oci-layout://%s@%s", store, id)
	return nil
}

// manifestIn returns the manifest (or index) under tag in the layout in dir, or the only
// one where no tag is given.
func manifestIn(dir, tag string) (digest.Digest, error) {
	path := filepath.Join(dir, ocispec.ImageIndexFile)
	content, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var index ocispec.Index
	if err := json.Unmarshal(content, &index); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	if tag == "" {
		if len(index.Manifests) != 1 {
			return "", fmt.Errorf("%s has %d entries: name one with oci-layout://%s:TAG or @DIGEST", path, len(index.Manifests), dir)
		}
		return index.Manifests[0].Digest, nil
	}
	for _, manifest := range index.Manifests {
		if manifest.Annotations[ocispec.AnnotationRefName] == tag {
			return manifest.Digest, nil
		}
	}
	return "", fmt.Errorf("%s has no entry with the tag %q", path, tag)
}
