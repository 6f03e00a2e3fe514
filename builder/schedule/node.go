package schedule

import (
	"fmt"

	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/graph"
)

// state is how far a step has come in a plan. It only ever grows, by the
// transitions in next.
type state int

const (
	// stateOpen: the step is not pinned, or an input is not identified.
	stateOpen state = iota
	// stateContent: the definition key is not known to the cache; the content
	// of inputs is needed, is being digested, or was.
	stateContent
	// stateIdentified: the identity is known.
	stateIdentified
	// stateNeeded: somebody needs the result, and the cache doesn't have it;
	// the results of the inputs are being waited for.
	stateNeeded
	// stateRunning: the step runs, for this plan or for another.
	stateRunning
	// stateDone: the results are there.
	stateDone
)

var stateNames = [...]string{"open", "content", "identified", "needed", "running", "done"}

func (s state) String() string { return stateNames[s] }

// next has the legal transitions.
var next = map[state][]state{
	stateOpen:       {stateContent, stateIdentified},
	stateContent:    {stateIdentified},
	stateIdentified: {stateNeeded, stateDone},
	stateNeeded:     {stateRunning},
	stateRunning:    {stateDone},
}

// node is a step in a plan. Only the plan's loop touches it.
type node struct {
	step  *graph.Step
	state state
	// inputs are parallel to step.Inputs; users are the nodes that have this
	// one as an input, once for each time.
	inputs []*node
	users  []*node

	op        Op
	key       Key
	pinned    bool
	content   []cache.Input // parallel to inputs, once they are identified
	digesting []bool        // inputs whose content is being digested, or was
	defKey    cache.Key
	id        cache.ID
	hit       bool // the cache has a record under id
	lost      bool // it had, but the record's results have vanished
	ran       bool
	results   []Result

	wanted bool // somebody needs the results
	// stalled: it, or a step that it stands on, waits for a step to run, to be
	// identified by what that makes.
	stalled bool
	// unidentified and unfinished count the inputs that are waited for.
	unidentified int
	unfinished   int
}

func (n *node) to(s state) {
	for _, ok := range next[n.state] {
		if ok == s {
			n.state = s
			return
		}
	}
	panic(fmt.Sprintf("schedule: step %s cannot go from %s to %s", n.step.Digest, n.state, s))
}

// byContent tells whether input i counts by its content.
func (n *node) byContent(i int) bool {
	return i < len(n.key.Inputs) && n.key.Inputs[i].Content != nil
}

// inputResults gives the result of each input.
func (n *node) inputResults() []Result {
	rs := make([]Result, len(n.inputs))
	for i, in := range n.inputs {
		rs[i] = in.results[n.step.Inputs[i].Index]
	}
	return rs
}
