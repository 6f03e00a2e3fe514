package golden

import (
	"bytes"
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-build/kiln/nerdctlext"
)

// Ran is what a command line did.
type Ran struct {
	Stdout, Stderr string
	Err            error
}

// Execute runs a command tree as a process would, with a standard input and an
// environment of its own.
func Execute(ctx context.Context, tree func(nerdctlext.Environment) *cobra.Command, variables map[string]string, stdin string, argv ...string) Ran {
	var stdout, stderr bytes.Buffer
	root := tree(nerdctlext.Environment{
		Lookup: func(name string) (string, bool) { value, ok := variables[name]; return value, ok },
		Stdin:  strings.NewReader(stdin),
		Stdout: &stdout,
		Stderr: &stderr,

		Version: nerdctlext.Version{Module: "example.com/kiln", Version: "v1", Revision: "abc"},
		User:    1000,
	})
	root.SetArgs(argv)
	err := root.ExecuteContext(ctx)
	return Ran{stdout.String(), stderr.String(), err}
}
