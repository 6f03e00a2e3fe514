package builder

import (
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/sandbox/device"
)

// Worker is a place where builds run.
type Worker struct {
	ID        string
	Labels    map[string]string
	Platforms []ocispec.Platform
	Policies  []cache.Policy
	Devices   []device.Device
}

// Workers are all workers; the first is the default.
func (b *Builder) Workers() []Worker {
	return []Worker{{ID: b.id, Labels: b.cfg.Labels, Platforms: b.platforms(), Policies: b.cfg.Policies, Devices: b.cfg.Devices.List()}}
}

// platforms are what can be built for now, the default first.
func (b *Builder) platforms() []ocispec.Platform {
	if b.cfg.FixedPlatforms || b.cfg.Emulation == nil {
		return b.cfg.Platforms
	}
	return b.cfg.Emulation.Platforms()
}

func (b *Builder) workerInfo() []gwclient.WorkerInfo {
	var infos []gwclient.WorkerInfo
	for _, w := range b.Workers() {
		infos = append(infos, gwclient.WorkerInfo{ID: w.ID, Labels: w.Labels, Platforms: w.Platforms})
	}
	return infos
}
