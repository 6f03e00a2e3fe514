// Package schedule decides which steps of a graph have to run, runs them in
// parallel, and shares the work of steps that are the same.
//
// A step's identity names its result. It is found without running the step
// where the cache knows one of the step's keys; see [Op] for the keys. Work is
// shared by identity: one run at a time, whoever asks, under a context of its
// own that ends when the last one who waits has left.
package schedule

import (
	"context"

	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/graph"
	digest "github.com/opencontainers/go-digest"
)

// Result is one output of a step. The scheduler only passes it on; nil is the
// empty tree.
type Result any

// Op is what a step does. An Op belongs to one build and one step.
type Op interface {
	// Key pins what the step is made from and says what the step is. It is
	// called once per build. For a step without inputs it may block, for
	// instance to resolve a tag, and ctx ends with the build, until when what
	// was pinned must stay; for others it must not block.
	Key(ctx context.Context, job Job) (Key, error)
	// Run makes the step's outputs from one result for each of the step's
	// inputs. What it makes belongs to the record that ctx carries. It must
	// stop soon after ctx ends, and leave nothing behind when it fails.
	Run(ctx context.Context, job Job, inputs []Result) ([]Result, error)
}

// Job is what an Op may use of the builds that wait for it.
type Job struct {
	// Sessions gives the session ids of the builds that wait, never empty
	// ids. The answer may change while the op runs.
	Sessions func() []string
	// Progress reports on the step in all the builds that wait.
	Progress event.Progress
}

// Key says what a step is.
type Key struct {
	// Digest covers all that the step is, but for its inputs.
	Digest digest.Digest
	// Parts are what Digest was made of, for explanations; may be nil.
	Parts []cache.Part
	// Inputs has one element for each input of the step.
	Inputs []InputKey
	// Record describes the record that a run will make.
	Record cache.Description
	// Describe, where it isn't nil, says what the result of a step without inputs
	// is without making it, for those who don't need more.
	Describe func(Job) (Result, error)
	// Worked: pinning did work that a build shows as done, not as cached.
	Worked bool
}

// InputKey says how an input counts in the step's keys.
type InputKey struct {
	// Selector is the part of the input that is used; it is in all keys.
	Selector string
	// Reads are the paths or patterns that the step reads of the input, for
	// explanations; may be nil.
	Reads []string
	// Content, where it isn't nil, digests what the step reads of the input:
	// the content key has this in place of the input's identity.
	Content func(ctx context.Context, job Job, input Result) (digest.Digest, error)
}

// ContentError says that an input by whose content a step counts could not be
// digested.
type ContentError struct {
	// Input is its place among the step's inputs, Result what it is.
	Input  int
	Result Result
	Err    error
}

func (e *ContentError) Error() string { return "failed to compute cache key: " + e.Err.Error() }
func (e *ContentError) Unwrap() error { return e.Err }

// Ops makes the Op of a step.
type Ops interface {
	Op(step *graph.Step) (Op, error)
}

// Records keeps results. Implementations are safe for concurrent use.
type Records interface {
	// Lookup returns the record that a key leads to, "" where there is none,
	// and acquires it.
	Lookup(key cache.Key) (cache.ID, error)
	// Bind makes keys lead to the record.
	Bind(id cache.ID, keys ...cache.Key) error
	// Acquire keeps what the record has, or will have, from being removed
	// until as many calls of Release. The record need not exist yet.
	Acquire(id cache.ID)
	Release(id cache.ID)
	// Load gives a record's results. It fails with errdefs.ErrNotFound where
	// the record, or something that it needs, has vanished.
	Load(ctx context.Context, id cache.ID) ([]Result, error)
	// Begin returns a context under which what is made belongs to the record
	// to be. Exactly one of Commit and Abort must follow.
	Begin(ctx context.Context, id cache.ID) (context.Context, error)
	// Commit keeps the results as the record's, and binds the keys to it.
	Commit(ctx context.Context, rec cache.Record, results []Result, keys ...cache.Key) error
	// Abort removes what was made since Begin, because of err. What err itself
	// has of it is kept for as long as the id is acquired.
	Abort(id cache.ID, err error)
}
