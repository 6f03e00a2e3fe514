package image

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
)

// ref is a complete image reference.
type ref struct {
	Name   string // with the tag, or else with the digest
	Host   string // registry, as users write it
	Repo   string // without the registry
	Digest digest.Digest
}

// parseRef takes a reference as users write it, too.
func parseRef(s string) (ref, error) {
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return ref{}, fmt.Errorf("image reference %q: %w: %w", s, err, errdefs.ErrInvalidArgument)
	}
	named = reference.TagNameOnly(named)
	r := ref{Host: reference.Domain(named), Repo: reference.Path(named)}
	if d, ok := named.(reference.Digested); ok {
		r.Digest = d.Digest()
	}
	r.Name = r.Host + "/" + r.Repo
	if t, ok := named.(reference.Tagged); ok {
		r.Name += ":" + t.Tag()
	} else {
		r.Name += "@" + r.Digest.String()
	}
	return r, nil
}

// Canonical gives the one name of the image that a reference, as users write it, names.
func Canonical(s string) (string, error) {
	r, err := parseRef(s)
	return r.String(), err
}

// String is the whole reference.
func (r ref) String() string {
	if r.Digest == "" || strings.Contains(r.Name, "@") {
		return r.Name
	}
	return r.Name + "@" + r.Digest.String()
}

// at is the reference by digest alone.
func (r ref) at(d digest.Digest) string { return r.Host + "/" + r.Repo + "@" + d.String() }

// withDigest is what the reference means now.
func (r ref) withDigest(d digest.Digest) ref {
	r.Digest = d
	return r
}

// localNames are the names that the machine may know the image by.
func (r ref) localNames() []string {
	names := []string{r.Name}
	if r.Digest != "" {
		names = append(names, r.at(r.Digest), r.String())
	}
	return names
}
