package assemble

import (
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Place is what an annotation is on; its text is the type in the key.
type Place string

// The places; those of the descriptor are in what refers to the document.
const (
	OnManifest           Place = "manifest"
	OnManifestDescriptor Place = "manifest-descriptor"
	OnIndex              Place = "index"
	OnIndexDescriptor    Place = "index-descriptor"
)

// Annotation is one that the user or the frontend asked for.
type Annotation struct {
	Place Place
	// Platform is in the form of platforms.FormatAll; "": all.
	Platform   string
	Key, Value string
}

// Annotations are in order: of two that say different things of the same key,
// the later counts.
type Annotations []Annotation

var annotationKey = regexp.MustCompile(`^annotation(?:-([a-z-]+))?(?:\[([A-Za-z0-9_/-]+)\])?\.(\S+)$`)

// ParseAnnotations finds the annotations among attributes or metadata: keys
// of the form annotation[-TYPE][[PLATFORM]].KEY.
func ParseAnnotations[V ~string | ~[]byte](from map[string]V) (Annotations, error) {
	var found Annotations
	for _, key := range slices.Sorted(maps.Keys(from)) {
		m := annotationKey.FindStringSubmatch(key)
		if m == nil {
			continue
		}
		a := Annotation{Place: Place(m[1]), Key: m[3], Value: string(from[key])}
		switch a.Place {
		case "":
			a.Place = OnManifest
		case OnManifest, OnManifestDescriptor:
		case OnIndex, OnIndexDescriptor:
			if m[2] != "" {
				return nil, fmt.Errorf("%s: an annotation of the index can't be for a platform: %w", key, errdefs.ErrInvalidArgument)
			}
		default:
			return nil, fmt.Errorf("unrecognized annotation type %s: %w", a.Place, errdefs.ErrInvalidArgument)
		}
		if m[2] != "" {
			p, err := platforms.Parse(m[2])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			a.Platform = platforms.FormatAll(p)
		}
		found = append(found, a)
	}
	return found, nil
}

// IsAnnotation says whether [ParseAnnotations] takes the key.
func IsAnnotation(key string) bool { return annotationKey.MatchString(key) }

// At gives the annotations for a place; those for the platform override those
// for all platforms.
func (as Annotations) At(place Place, platform ocispec.Platform) map[string]string {
	on := map[string]string{}
	for _, p := range []string{"", platforms.FormatAll(platform)} {
		for _, a := range as {
			if a.Place == place && a.Platform == p {
				on[a.Key] = a.Value
			}
		}
	}
	return on
}

// OfIndex gives the annotations for a place that is there once.
func (as Annotations) OfIndex(place Place) map[string]string {
	return as.At(place, ocispec.Platform{})
}

// Check fails where an annotation has nothing to be on in an image of the
// types. That it is for a platform that isn't there counts only if there are
// several: else it was written for a build of which this is one part.
func (as Annotations) Check(types Types, of []Platform) error {
	known := map[string]bool{"": true}
	for _, p := range of {
		known[p.ID] = true
		known[platforms.FormatAll(p.Platform)] = true
	}
	for _, a := range as {
		if len(of) > 1 && !known[a.Platform] {
			return fmt.Errorf("invalid annotation: no platform %s found in source: %w", a.Platform, errdefs.ErrInvalidArgument)
		}
		if types == Docker && a.Place != OnManifest {
			return fmt.Errorf("cannot export annotations with \"oci-mediatypes=false\": %w", errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// CheckSingle fails where an annotation needs an index, for an image without.
func (as Annotations) CheckSingle() error {
	for _, a := range as {
		if a.Place == OnIndex || a.Place == OnIndexDescriptor {
			return fmt.Errorf("index annotations not supported for single platform export: %w", errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
