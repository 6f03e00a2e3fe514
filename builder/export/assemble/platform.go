package assemble

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The keys of a result's metadata that say what image it makes. KeyConfig,
// KeyBaseConfig and KeyEpoch may end in "/" and a platform's ID.
const (
	KeyPlatforms  = "refs.platforms"
	KeyConfig     = "containerimage.config"
	KeyBaseConfig = "containerimage.base.config"
	KeyEpoch      = "source.date.epoch"
	KeyName       = "image.name"
)

// maxPlatforms bounds what one result can be for.
const maxPlatforms = 1000

// Platform is a platform that a result has a tree for. ID is what the frontend
// calls it: any text.
type Platform struct {
	ID       string
	Platform ocispec.Platform
}

// Platforms reads from a result's metadata which platforms it is for. There is
// at least one; without [KeyPlatforms] it is that of the config and without
// that the engine's.
func Platforms(metadata map[string][]byte) ([]Platform, error) {
	list, ok := metadata[KeyPlatforms]
	if !ok {
		return onePlatform(metadata[KeyConfig])
	}
	var doc struct{ Platforms []Platform }
	if len(list) > 0 {
		if err := json.Unmarshal(list, &doc); err != nil {
			return nil, fmt.Errorf("%s from the frontend: %w: %w", KeyPlatforms, err, errdefs.ErrInvalidArgument)
		}
	}
	if n := len(doc.Platforms); n > maxPlatforms {
		return nil, fmt.Errorf("%s has %d platforms, more than %d: %w", KeyPlatforms, n, maxPlatforms, errdefs.ErrInvalidArgument)
	}
	if len(doc.Platforms) == 0 {
		return nil, fmt.Errorf("invalid empty platforms index for exporter: %w", errdefs.ErrInvalidArgument)
	}
	for i := range doc.Platforms {
		p := &doc.Platforms[i]
		switch {
		case p.ID == "":
			return nil, fmt.Errorf("invalid empty platform key for exporter: %w", errdefs.ErrInvalidArgument)
		case p.Platform.OS == "" || p.Platform.Architecture == "":
			return nil, fmt.Errorf("invalid platform value %v for exporter: %w", p.Platform, errdefs.ErrInvalidArgument)
		}
		p.Platform = platforms.Normalize(p.Platform)
	}
	return doc.Platforms, nil
}

func onePlatform(config []byte) ([]Platform, error) {
	p := platforms.DefaultSpec()
	if len(config) > 0 {
		var img ocispec.Image
		if err := json.Unmarshal(config, &img); err != nil {
			return nil, fmt.Errorf("image config from the frontend: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if (img.OS == "") != (img.Architecture == "") {
			return nil, fmt.Errorf("invalid image config: os and architecture must be specified together: %w", errdefs.ErrInvalidArgument)
		}
		p = img.Platform
	}
	p = platforms.Normalize(p)
	return []Platform{{ID: platforms.FormatAll(p), Platform: p}}, nil
}

// Lookup is the metadata's value for the platform, else that for all.
func (p Platform) Lookup(metadata map[string][]byte, key string) []byte {
	if v, ok := metadata[key+"/"+p.ID]; ok {
		return v
	}
	return metadata[key]
}
