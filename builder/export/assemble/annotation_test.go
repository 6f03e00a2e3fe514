package assemble

import (
	"maps"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestParseAnnotations(t *testing.T) {
	t.Parallel()
	as, err := ParseAnnotations(map[string]string{
		"annotation.a":                                   "1",
		"annotation-manifest.b":                          "2",
		"annotation-manifest[linux/arm64].b":             "3",
		"annotation-manifest-descriptor[linux/arm/v7].c": "4",
		"annotation-index.d":                             "5",
		"annotation-index-descriptor.e.f/g":              "6",
		"annotation":                                     "not one",
		"annotations.x":                                  "not one",
		"annotation.":                                    "not one",
		"name":                                           "not one",
	})
	if err != nil {
		t.Fatal(err)
	}
	amd64, arm64 := platforms.MustParse("linux/amd64"), platforms.MustParse("linux/arm64")
	for _, c := range []struct {
		place    Place
		platform ocispec.Platform
		want     map[string]string
	}{
		{OnManifest, amd64, map[string]string{"a": "1", "b": "2"}},
		{OnManifest, arm64, map[string]string{"a": "1", "b": "3"}},
		{OnManifestDescriptor, amd64, map[string]string{}},
		{OnManifestDescriptor, platforms.MustParse("linux/arm/v7"), map[string]string{"c": "4"}},
	} {
		if got := as.At(c.place, c.platform); !maps.Equal(got, c.want) {
			t.Errorf("%s of %s: %v, want %v", c.place, platforms.FormatAll(c.platform), got, c.want)
		}
	}
	if got := as.OfIndex(OnIndex); !maps.Equal(got, map[string]string{"d": "5"}) {
		t.Errorf("index: %v", got)
	}
	if got := as.OfIndex(OnIndexDescriptor); !maps.Equal(got, map[string]string{"e.f/g": "6"}) {
		t.Errorf("index descriptor: %v", got)
	}
}

func TestBadAnnotations(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"annotation-layer.x":                   "unrecognized annotation type layer",
		"annotation-index[linux/amd64].x":      "can't be for a platform",
		"annotation-manifest[linux/a/b/c/d].x": "annotation-manifest[linux/a/b/c/d].x",
	} {
		_, err := ParseAnnotations(map[string][]byte{key: nil})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", key, err, want)
		}
	}
}

// What comes later in the list wins, but one for a platform wins over one for all.
func TestAnnotationOrder(t *testing.T) {
	t.Parallel()
	first, _ := ParseAnnotations(map[string]string{"annotation.a": "attr", "annotation[linux/amd64].b": "attr"})
	second, _ := ParseAnnotations(map[string]string{"annotation.a": "metadata", "annotation.b": "metadata"})
	got := append(first, second...).At(OnManifest, platforms.MustParse("linux/amd64"))
	if want := map[string]string{"a": "metadata", "b": "attr"}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestCheckAnnotations(t *testing.T) {
	t.Parallel()
	one := []Platform{{ID: "linux/amd64", Platform: platforms.MustParse("linux/amd64")}}
	two := append([]Platform{{ID: "weird", Platform: platforms.MustParse("linux/arm64")}}, one...)
	for _, c := range []struct {
		key   string
		types Types
		of    []Platform
		want  string
	}{
		{"annotation.x", Docker, two, ""},
		{"annotation[linux/arm64].x", OCI, two, ""},
		{"annotation[linux/s390x].x", OCI, one, ""},
		{"annotation[linux/s390x].x", OCI, two, "no platform linux/s390x found"},
		{"annotation-index.x", Docker, two, `"oci-mediatypes=false"`},
		{"annotation-manifest-descriptor.x", Docker, one, `"oci-mediatypes=false"`},
	} {
		as, err := ParseAnnotations(map[string]string{c.key: ""})
		if err != nil {
			t.Fatal(err)
		}
		err = as.Check(c.types, c.of)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s, %d platforms: error %v, want %q", c.key, len(c.of), err, c.want)
		}
	}
	as, _ := ParseAnnotations(map[string]string{"annotation-index-descriptor.x": ""})
	if err := as.CheckSingle(); err == nil {
		t.Error("an annotation of an index was accepted for an image without")
	}
}
