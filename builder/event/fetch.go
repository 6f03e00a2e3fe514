package event

import digest "github.com/opencontainers/go-digest"

// Fetch is a request that a process of a step made through the build's proxy.
type Fetch struct {
	// URL is what was fetched, without a user or password.
	Method, URL string
	// Status is that of the answer; 403 also if a policy denied the request, and 502
	// if there was no answer.
	Status int
	// Location is where a redirect leads, "" if the answer is none.
	Location string
	// Digest is that of the content, if the URL alone gave all of it.
	Digest digest.Digest
	// Incomplete is why something was fetched that has no Digest, a constant of this
	// package; "" where nothing was.
	Incomplete string
}

// Why a Fetch has no digest, as BuildKit names it in provenance.
const (
	NotMaterial    = "method_not_materializable"
	PartialAnswer  = "partial_response"
	BodyReadFailed = "body_read_failed"
	NoSuccess      = "unsuccessful_response"
	NoAnswer       = "upstream_error"
)

// Fetches are what a step's processes have fetched, once they have ended; More counts
// those that were too many to be kept.
type Fetches struct {
	Vertex digest.Digest
	All    []Fetch
	More   int
}
