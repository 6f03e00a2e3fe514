package export

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kiln-build/kiln/builder/export/assemble"
)

// CheckPlatforms warns of platforms that the client asked for, in its words, and
// that the result doesn't have, or the other way round. It fails where the
// result contradicts itself.
func (r Result) CheckPlatforms(asked []string) (warnings []string, _ error) {
	if _, ok := r.Metadata[assemble.KeyPlatforms]; !ok && r.isMap() {
		return nil, fmt.Errorf("build result contains multiple refs without platforms mapping: %w", errdefs.ErrInvalidArgument)
	}
	list, err := assemble.Platforms(r.Metadata)
	if err != nil {
		return nil, err
	}
	have := make([]ocispec.Platform, len(list))
	for i, p := range list {
		have[i] = p.Platform
	}
	want, warnings := parsePlatforms(asked)
	if len(warnings) > 0 {
		return warnings, nil
	}
	switch {
	case len(want) == 1 && len(have) == 1:
		if !meant(want[0], have[0]) {
			return []string{fmt.Sprintf("Requested platform %q does not match result platform %q", asked[0], platforms.FormatAll(have[0]))}, nil
		}
	case len(want) > 1 && !r.isMap():
		return []string{"Multiple platforms requested but result is not multi-platform"}, nil
	case len(want) != len(have) || slices.ContainsFunc(have, func(p ocispec.Platform) bool { return !among(want, p) }):
		return []string{fmt.Sprintf("Requested platforms %s do not match result platforms %s", names(want), names(have))}, nil
	}
	return nil, nil
}

// parsePlatforms also says which can't be read or are there twice.
func parsePlatforms(asked []string) (list []ocispec.Platform, warnings []string) {
	seen := map[string]bool{}
	for _, text := range asked {
		p, err := platforms.Parse(text)
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("Invalid platform result requested %q: %s", text, err))
			continue
		}
		p = platforms.Normalize(p)
		if seen[platforms.FormatAll(p)] {
			warnings = append(warnings, fmt.Sprintf("Duplicate platform result requested %q", text))
		}
		seen[platforms.FormatAll(p)] = true
		list = append(list, p)
	}
	return list, warnings
}

// meant tells whether who asked for a platform could have meant this one: a
// version of the OS that was not asked for may be any.
func meant(want, have ocispec.Platform) bool {
	if want.OSVersion == "" {
		have.OSVersion = ""
	}
	return platforms.FormatAll(want) == platforms.FormatAll(have)
}

func among(want []ocispec.Platform, have ocispec.Platform) bool {
	return slices.ContainsFunc(want, func(w ocispec.Platform) bool {
		return platforms.FormatAll(w) == platforms.FormatAll(have) || platforms.OnlyStrict(w).Match(have)
	})
}

// names are in alphabetical order.
func names(list []ocispec.Platform) string {
	var all []string
	for _, p := range list {
		all = append(all, platforms.FormatAll(p))
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}
