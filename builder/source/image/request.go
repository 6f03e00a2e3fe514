package image

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The schemes of sources that are images.
const (
	Scheme       = "docker-image"
	LayoutScheme = "oci-layout"
)

// The resolve modes.
const (
	modeDefault = pb.AttrImageResolveModeDefault
	modePull    = pb.AttrImageResolveModeForcePull
	modeLocal   = pb.AttrImageResolveModePreferLocal
)

// request says which image is wanted.
type request struct {
	ref      ref
	mode     string
	platform ocispec.Platform
	limit    int // of layers; 0 is all
	checksum digest.Digest
	kind     string // of the record
	layout   *layout
	// digestOnly: what the reference stands for is all that is wanted.
	digestOnly bool
}

// layout names a content store of a client.
type layout struct {
	session string // "" is any
	store   string
	ref     string // for people
}

func (r request) String() string {
	if r.layout != nil {
		return r.layout.ref
	}
	return r.ref.String()
}

// parseRequest reads an LLB source.
func parseRequest(op *pb.SourceOp, platform ocispec.Platform) (request, error) {
	scheme, name, _ := strings.Cut(op.GetIdentifier(), "://")
	req := request{mode: modeDefault, platform: platform, kind: cache.Regular}
	attrs := op.GetAttrs()
	switch attrs[pb.AttrImageRecordType] {
	case "", "regular":
	case "internal":
		req.kind = cache.Internal
	case "frontend":
		req.kind = cache.Frontend
	default:
		return req, fmt.Errorf("%s: record type %q: %w", name, attrs[pb.AttrImageRecordType], errdefs.ErrInvalidArgument)
	}
	if scheme == LayoutScheme {
		return req.readLayout(name, attrs)
	}
	var err error
	if req.ref, err = parseRef(name); err != nil {
		return req, err
	}
	if m := attrs[pb.AttrImageResolveMode]; m != "" {
		req.mode = m
	}
	if req.mode != modeDefault && req.mode != modePull && req.mode != modeLocal {
		return req, fmt.Errorf("%s: resolve mode %q: %w", name, req.mode, errdefs.ErrInvalidArgument)
	}
	if c := attrs[pb.AttrImageChecksum]; c != "" {
		if req.checksum, err = digest.Parse(c); err != nil {
			return req, fmt.Errorf("%s: checksum %q: %w: %w", name, c, err, errdefs.ErrInvalidArgument)
		}
	}
	req.limit, err = layerLimit(name, attrs[pb.AttrImageLayerLimit])
	return req, err
}

func (r request) readLayout(name string, attrs map[string]string) (request, error) {
	before, after, ok := strings.Cut(name, "@")
	d, err := digest.Parse(after)
	if !ok || err != nil {
		return r, fmt.Errorf("oci-layout %q needs a digest (STORE@sha256:...): %w", name, errdefs.ErrInvalidArgument)
	}
	r.ref.Digest = d
	r.mode = modePull
	r.layout = &layout{session: attrs[pb.AttrOCILayoutSessionID], store: attrs[pb.AttrOCILayoutStoreID], ref: name}
	if r.layout.store == "" {
		r.layout.store, _, _ = strings.Cut(before, "/")
		r.layout.store, _, _ = strings.Cut(r.layout.store, ":")
	}
	if r.layout.store == "" {
		return r, fmt.Errorf("oci-layout %q names no store: %w", name, errdefs.ErrInvalidArgument)
	}
	r.limit, err = layerLimit(name, attrs[pb.AttrOCILayoutLayerLimit])
	return r, err
}

func layerLimit(name, text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%s: layer limit %q is no number above 0: %w", name, text, errdefs.ErrInvalidArgument)
	}
	return n, nil
}
