package builder

import (
	"fmt"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/kiln-build/kiln/builder/session/registry"
)

// pushRegistry gives exporters access to registries.
type pushRegistry struct{ registries *registry.Registries }

// Resolver implements export.Registry.
func (p pushRegistry) Resolver(sessions func() []string, ref string, insecure bool) (remotes.Resolver, error) {
	if !insecure {
		return p.registries.Resolver(sessions), nil
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, fmt.Errorf("image name %q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	return p.registries.Insecure(reference.Domain(named)).Resolver(sessions), nil
}
