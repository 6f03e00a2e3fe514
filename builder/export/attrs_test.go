package export

import (
	"context"
	"errors"
	"strings"
	"testing"

	solvererrdefs "github.com/moby/buildkit/solver/errdefs"

	"github.com/kiln-build/kiln/builder/export/assemble"
	"github.com/kiln-build/kiln/builder/layer"
)

func TestResolve(t *testing.T) {
	t.Parallel()
	e := New(Config{})
	for typ, want := range map[string]string{
		"image":     "exporting to image",
		"registry":  "exporting to image",
		"oci":       "exporting to oci image format",
		"docker":    "exporting to docker image format",
		"local":     "exporting to client directory",
		"tar":       "exporting to client tarball",
		"cacheonly": "keeping the result in the cache",
	} {
		x, err := e.Resolve(context.Background(), Target{Type: typ})
		if err != nil || x.Name() != want {
			t.Errorf("%s: %v, %v", typ, x, err)
		}
	}
	_, err := e.Resolve(context.Background(), Target{Type: "moby"})
	if err == nil || !strings.HasPrefix(err.Error(), `exporter "moby" could not be found`) {
		t.Error(err)
	}
}

func TestBadAttrs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ typ, key, value, want string }{
		{"image", "push", "maybe", "non-bool value specified for push"},
		{"image", "unpack", "x", "non-bool value specified for unpack"},
		{"image", "store", "x", "non-bool value specified for store"},
		{"image", "name-canonical", "x", "non-bool value specified for name-canonical"},
		{"image", "danging-name-empty-only", "x", "non-bool value specified for danging-name-empty-only"},
		{"image", "registry.insecure", "x", "non-bool value specified for registry.insecure"},
		{"image", "unsafe-internal-store-allow-incomplete", "x", "non-bool value"},
		{"image", "oci-mediatypes", "", "non-bool value specified for oci-mediatypes"},
		{"oci", "oci-artifact", "", "non-bool value specified for oci-artifact"},
		{"docker", "attestation-inline", "", "non-bool value specified for attestation-inline"},
		{"oci", "prefer-nondist-layers", "", "non-bool value specified for prefer-nondist-layers"},
		{"oci", "rewrite-timestamp", "", "non-bool value specified for rewrite-timestamp"},
		{"oci", "tar", "x", "non-bool value specified for tar"},
		{"oci", "force-compression", "x", "non-bool value"},
		{"oci", "compression", "nydus", "unsupported compression type nydus"},
		{"oci", "compression", "", "unsupported compression type"},
		{"oci", "compression-level", "x", "non-integer value x specified for compression-level"},
		{"oci", "compression-level", "10", "gzip has the levels 0 to 9"},
		{"oci", "compression-level", "-1", "gzip has the levels 0 to 9"},
		{"oci", "source-date-epoch", "yesterday", "invalid source-date-epoch"},
		{"tar", "source-date-epoch", "9223372036854775807", "too far from 1970"},
		{"oci", "annotation-bogus.x", "", "unrecognized annotation type bogus"},
		{"local", "mode", "mirror", `invalid local exporter mode "mirror"`},
		{"local", "platform-split", "", "non-bool value for platform-split"},
		{"tar", "platform-split", "x", "non-bool value for platform-split: x"},
	} {
		_, err := New(Config{}).Resolve(context.Background(), Target{Type: c.typ, Attrs: map[string]string{c.key: c.value}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s=%s: error %v, want %q", c.typ, c.key, c.value, err, c.want)
		}
	}
}

func TestConflictingAttrs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		typ, attrs, want string
		compat           int
	}{
		{"image", "oci-mediatypes=false,compression=estargz", `"compression=estargz" conflicts with "oci-mediatypes=false"`, 0},
		{"image", "oci-mediatypes=false,oci-artifact=true", `"oci-artifact=true" conflicts with "oci-mediatypes=false"`, 0},
		{"docker", "compression=estargz", "conflicts", 20},
		{"image", "rewrite-timestamp=true,unpack=true", `"rewrite-timestamp" conflicts with "unpack"`, 0},
	} {
		_, err := New(Config{}).Resolve(context.Background(), Target{Type: c.typ, Attrs: parse(c.attrs), Compatibility: c.compat})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: error %v, want %q", c.typ, c.attrs, err, c.want)
		}
	}
	_, err := New(Config{}).Resolve(context.Background(), Target{Type: "oci", Attrs: parse("compression=zstd"), Compatibility: 10})
	var typed *solvererrdefs.UnsupportedCompatibilityFeatureError
	if !errors.As(err, &typed) || typed.Version != 10 {
		t.Errorf("zstd at level 10: %v", err)
	}
}

func TestImageAttrs(t *testing.T) {
	t.Parallel()
	resolve := func(typ, attrs string) *imageExporter {
		x, err := New(Config{}).Resolve(context.Background(), Target{Type: typ, Attrs: parse(attrs)})
		if err != nil {
			t.Fatal(err)
		}
		return x.(*imageExporter)
	}
	x := resolve("image", "")
	if !x.store || x.push || x.unpack || x.types != assemble.OCI || x.compression.Type != layer.Gzip {
		t.Errorf("defaults: %+v", x)
	}
	if x := resolve("registry", ""); !x.push {
		t.Error("type=registry doesn't push")
	}
	x = resolve("image", "push=,unpack=,store=0,push-by-digest=,registry.insecure=,name-canonical=,danging-name-empty-only=,"+
		"force-compression=,compression=zstd,compression-level=22,foo=bar")
	if !x.push || !x.unpack || x.store || !x.byDigest || !x.insecure || !x.canonical || !x.danglingOnlyIfNoOtherName ||
		!x.compression.Force || x.compression.Type != layer.Zstd || *x.compression.Level != 22 {
		t.Errorf("empty is true: %+v", x)
	}
	if len(x.metadata) != 1 || x.metadata["foo"] != "bar" {
		t.Errorf("metadata from attributes: %v", x.metadata)
	}
}

func TestMediaTypesByCompatibility(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		typ    string
		compat int
		want   assemble.Types
	}{
		{"image", 0, assemble.OCI}, {"image", 20, assemble.Docker},
		{"docker", 30, assemble.OCI}, {"docker", 10, assemble.Docker}, {"oci", 10, assemble.OCI},
	} {
		o, err := newAttrs(nil).imageOptions(Target{Type: c.typ, Compatibility: c.compat})
		if err != nil || o.types != c.want {
			t.Errorf("%s at %d: %v, %v", c.typ, c.compat, o.types, err)
		}
	}
}

func TestEpoch(t *testing.T) {
	t.Parallel()
	p := assemble.Platform{ID: "a"}
	for _, c := range []struct {
		attrs, global, platform string
		want                    int64 // -1: none
		fails                   bool
	}{
		{want: -1},
		{attrs: "source-date-epoch=5", global: "6", want: 5},
		{attrs: "source-date-epoch=", global: "6", want: -1},
		{global: "6", platform: "7", want: 6},
		{platform: "7", want: 7},
		{global: "", platform: "7", want: 7},
		{platform: "now", fails: true},
	} {
		e := newAttrs(parse(c.attrs)).epoch()
		at, err := e.of(p, map[string][]byte{"source.date.epoch": []byte(c.global), "source.date.epoch/a": []byte(c.platform)})
		switch {
		case c.fails:
			if err == nil {
				t.Errorf("%+v: no error", c)
			}
		case err != nil, (at == nil) != (c.want == -1), at != nil && at.Unix() != c.want:
			t.Errorf("%+v: %v, %v", c, at, err)
		}
	}
}

// parse reads "a=b,c=d".
func parse(s string) map[string]string {
	attrs := map[string]string{}
	for kv := range strings.SplitSeq(s, ",") {
		if k, v, ok := strings.Cut(kv, "="); ok {
			attrs[k] = v
		}
	}
	return attrs
}
