package image

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// toPlatform gives the default where p is nil.
func toPlatform(p *pb.Platform, def ocispec.Platform) ocispec.Platform {
	if p == nil || p.OS == "" && p.Architecture == "" {
		return platforms.Normalize(def)
	}
	return platforms.Normalize(ocispec.Platform{
		OS: p.OS, Architecture: p.Architecture, Variant: p.Variant,
		OSVersion: p.OSVersion, OSFeatures: p.OSFeatures,
	})
}

// choose gives the manifest of an index that suits the platform best. Those
// that don't say what they are for are asked.
func (p *puller) choose(ctx context.Context, index []ocispec.Descriptor) (ocispec.Descriptor, error) {
	match := platforms.Only(p.platform)
	var best *ocispec.Descriptor
	var others []string
	for _, d := range index {
		if !isManifest(d.MediaType) && !isIndex(d.MediaType) {
			continue
		}
		if d.Platform == nil && isManifest(d.MediaType) {
			var err error
			if d.Platform, err = p.platformOf(ctx, d); err != nil {
				return d, err
			}
		}
		if d.Platform == nil || d.Platform.OS == "unknown" {
			continue // attestations and the like
		}
		if !match.Match(*d.Platform) {
			others = append(others, platforms.FormatAll(platforms.Normalize(*d.Platform)))
			continue
		}
		if best == nil || match.Less(*d.Platform, *best.Platform) {
			best = &d
		}
	}
	if best == nil {
		return ocispec.Descriptor{}, p.noPlatform(others)
	}
	return *best, nil
}

func (p *puller) noPlatform(others []string) error {
	have := "none at all"
	if len(others) > 0 {
		slices.Sort(others)
		others = slices.Compact(others)
		if len(others) > maxListed {
			others = append(others[:maxListed], "...")
		}
		have = strings.Join(others, ", ")
	}
	return fmt.Errorf("%s: no match for platform in manifest: wanted %s, there is %s: %w",
		p.name, platforms.FormatAll(p.platform), have, errdefs.ErrNotFound)
}

// maxListed bounds what an error says of a hostile index.
const maxListed = 30

// platformOf reads the platform of a manifest from its config.
func (p *puller) platformOf(ctx context.Context, d ocispec.Descriptor) (*ocispec.Platform, error) {
	m, err := p.readManifest(ctx, d)
	if err != nil {
		return nil, err
	}
	if !isConfig(m.Config.MediaType) {
		return nil, nil
	}
	cfg, _, err := p.readConfig(ctx, m.Config)
	if err != nil {
		return nil, err
	}
	return &cfg.Platform, nil
}
