package builder

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"strings"

	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kiln-build/kiln/builder/cache"
)

// identity is the builder's id, which its directory keeps.
func identity(file string) (string, error) {
	dt, err := os.ReadFile(file)
	if err == nil && len(dt) > 0 {
		return string(dt), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	id := strings.ToLower(rand.Text())
	return id, os.WriteFile(file, []byte(id), 0o600)
}

// Worker is a place where builds run.
type Worker struct {
	ID        string
	Labels    map[string]string
	Platforms []ocispec.Platform
	Policies  []cache.Policy
}

// Workers are all workers; the first is the default.
func (b *Builder) Workers() []Worker {
	return []Worker{{ID: b.id, Labels: b.cfg.Labels, Platforms: b.cfg.Platforms, Policies: b.cfg.Policies}}
}

func (b *Builder) workerInfo() []gwclient.WorkerInfo {
	var infos []gwclient.WorkerInfo
	for _, w := range b.Workers() {
		infos = append(infos, gwclient.WorkerInfo{ID: w.ID, Labels: w.Labels, Platforms: w.Platforms})
	}
	return infos
}
