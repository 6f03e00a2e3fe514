// Package cache remembers what steps have made: a table of keys that lead to
// records, and the records themselves.
//
// A key is a digest of what a step is ([DefinitionKey], [ContentKey]); several
// keys may lead to one record. A record names the results of one run. What the
// results consist of lies in containerd and is none of this package's concern.
// Losing the table loses nothing but cached work.
package cache

import (
	"time"

	digest "github.com/opencontainers/go-digest"
)

// ID is the identity of a record. It is the key under which the step ran.
type ID string

// Key is a digest of what a step is.
type Key string

// Part is one named thing that a key was made of.
type Part struct {
	Name  string `json:"n"`
	Value string `json:"v"`
}

// The kinds of records, as clients filter and show them.
const (
	Regular    = "regular"
	Internal   = "internal"
	Frontend   = "frontend"
	Local      = "source.local"
	CacheMount = "exec.cachemount"
)

// Description says what a record is, for people.
type Description struct {
	Kind string `json:"kind,omitempty"`
	Text string `json:"text,omitempty"`
}

// Record is the finished result of a step.
type Record struct {
	ID ID `json:"id"`
	Description
	// Outputs name the results, in the order of the step's outputs; "" is the
	// empty tree.
	Outputs []string `json:"outputs"`
	// Parents are the records whose results this one's stand on.
	Parents []ID `json:"parents,omitempty"`
	// Step is the name of the step that made it, Op the digest of what the step
	// is; Parts are what Op was made of, as far as it has a name.
	Step  string        `json:"step,omitempty"`
	Op    digest.Digest `json:"op,omitempty"`
	Parts []Part        `json:"parts,omitempty"`
	// Inputs are how the step's inputs counted in its key.
	Inputs   []Input       `json:"inputs,omitempty"`
	Created  time.Time     `json:"created"`
	Duration time.Duration `json:"duration,omitempty"`
	// LastUsed and Uses say how the record was of use since it was made.
	LastUsed time.Time `json:"used,omitzero"`
	Uses     int       `json:"uses,omitempty"`
}

// An Input is how one input counts in a key: by what it is (the record and the
// output), or by the digest of what a step reads of it.
type Input struct {
	Record   ID            `json:"r,omitempty"`
	Output   int           `json:"o,omitempty"`
	Selector string        `json:"s,omitempty"`
	Content  digest.Digest `json:"c,omitempty"`
}
