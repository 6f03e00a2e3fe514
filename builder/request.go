package builder

import (
	"github.com/kiln-build/kiln/builder/export"
	"github.com/kiln-build/kiln/builder/export/assemble"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
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
	// SourcePolicy decides on sources, and so does SourcePolicySession, the id of a
	// session of the client's, "" for none.
	SourcePolicy        *spb.Policy
	SourcePolicySession string
	// ProxyNetwork: processes reach their networks through a proxy, which records
	// requests, and asks the policies about them.
	ProxyNetwork bool
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
	// Explanation says why steps ran, an [Explanation] as JSON; "" where none did.
	Explanation string
}
