package builder

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/export"
	"github.com/kiln-build/kiln/builder/export/assemble"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Request says what is to be built. With a definition that is built, with a
// frontend what it returns, and with neither what the client that drives the
// build returns through the build's bridge.
type Request struct {
	// Ref names the build; no other with it may be running.
	Ref string
	// Session is the id of the client's session, "" if it has none.
	Session    string
	Definition *pb.Definition
	Frontend   string
	// Attrs are the frontend's options, Inputs the definitions it may use.
	Attrs     map[string]string
	Inputs    map[string]*pb.Definition
	Exporters []export.Target
	// SessionTarget is what the exporters have in common that the session is
	// asked for when the result is there, with the ID of the first; nil: the
	// session isn't asked.
	SessionTarget *export.Target
	Entitlements  []string
}

// Response says what was made.
type Response struct {
	// Exporter is what the exporters say, and what the frontend says for the
	// client.
	Exporter map[string]string
	// Descriptors are what image-like exporters made, by the exporter's ID.
	Descriptors map[int]ocispec.Descriptor
	// Documents are the indexes, manifests and configs of those images.
	Documents []assemble.Document
}

// The entitlements that a build may ask for.
const (
	NetworkHost      = "network.host"
	SecurityInsecure = "security.insecure"
)

// grant checks the entitlements that a request asks for.
func (b *Builder) grant(asked []string) (map[string]bool, error) {
	granted := map[string]bool{}
	for _, e := range asked {
		if !b.allowed[e] {
			return nil, fmt.Errorf("granting entitlement %s is not allowed by build daemon configuration", e)
		}
		granted[e] = true
	}
	return granted, nil
}

// permitted checks that a step uses only what was granted.
func permitted(granted map[string]bool, op *pb.Op) error {
	e := op.GetExec()
	if e == nil {
		return nil
	}
	if e.Network == pb.NetMode_HOST && !granted[NetworkHost] {
		return fmt.Errorf("%s is not allowed: ask for it with --allow %s: %w", NetworkHost, NetworkHost, errdefs.ErrPermissionDenied)
	}
	if e.Security == pb.SecurityMode_INSECURE && !granted[SecurityInsecure] {
		return fmt.Errorf("%s is not allowed: ask for it with --allow %s: %w", SecurityInsecure, SecurityInsecure, errdefs.ErrPermissionDenied)
	}
	if len(e.CdiDevices) > 0 {
		return fmt.Errorf("devices are not supported by this builder: %w", errdefs.ErrNotImplemented)
	}
	return nil
}
