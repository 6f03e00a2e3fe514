// Package build runs one build on a daemon that speaks BuildKit's API: it opens the
// session through which the daemon reaches this side's files, secrets and credentials,
// asks for the result, follows the progress and finishes what the outputs left here.
package build

import (
	"io"

	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
)

// Request is a build as a client wishes it: values only, the same for every way of
// writing it down. Building changes nothing in it.
type Request struct {
	// Ref identifies the build on the daemon; NewRef makes one.
	Ref string `json:",omitempty"`
	// Frontend names what reads the sources; empty means that Definition is solved.
	Frontend string `json:",omitempty"`
	// Options are the frontend's attributes.
	Options map[string]string `json:",omitempty"`
	// Definition is the graph to solve when there is no frontend.
	Definition *pb.Definition `json:"-"`

	// Locals are the directories that the daemon may read, by the name it asks for.
	Locals map[string]Local `json:",omitempty"`
	// Layouts are directories in OCI layout, by the id in oci-layout://…@….
	Layouts map[string]string `json:",omitempty"`
	// Uploads are streams that the daemon fetches once: each becomes the URL that is the
	// value of the option it is named after. They are read and closed by the build.
	Uploads map[string]io.ReadCloser `json:"-"`

	Outputs      []Output `json:",omitempty"`
	CacheExports []Cache  `json:",omitempty"`
	CacheImports []Cache  `json:",omitempty"`

	Secrets      []Secret                  `json:",omitempty"`
	Agents       []sshprovider.AgentConfig `json:",omitempty"`
	Entitlements []string                  `json:",omitempty"`
	SourcePolicy *spb.Policy               `json:",omitempty"`
	// ProxyNetwork asks for RUN steps behind the recording proxy.
	ProxyNetwork bool `json:",omitempty"`
}

// Local is a tree that is offered under a name: a directory, or a few files that are
// held in memory (names without a slash).
type Local struct {
	Dir   string            `json:",omitempty"`
	Files map[string][]byte `json:",omitempty"`
}

// Output is one exporter and where on this side its result goes. Neither Dir nor File is
// set when nothing comes back.
type Output struct {
	Type  string
	Attrs map[string]string `json:",omitempty"`
	// Dir receives a tree, or (types oci and docker) an OCI layout.
	Dir string `json:",omitempty"`
	// File receives a stream; "-" is standard output.
	File string `json:",omitempty"`
}

// Cache is one place that cache records come from or go to.
type Cache struct {
	Type  string
	Attrs map[string]string `json:",omitempty"`
}

// Secret is a value known under ID: the content of File, or of the variable Env.
type Secret struct {
	ID   string
	File string `json:",omitempty"`
	Env  string `json:",omitempty"`
}

// Result is what a build left behind.
type Result struct {
	Ref string
	// Exported is what the exporters answered, such as containerimage.digest.
	Exported map[string]string
	// Metadata is what the frontend said about its result; of use for a subrequest.
	Metadata map[string][]byte
}
