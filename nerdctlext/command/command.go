// Package command is kiln's own command line.
package command

import (
	"github.com/spf13/cobra"

	"github.com/kiln-build/kiln/nerdctlext"
)

// New returns the command tree.
func New(env nerdctlext.Environment) *cobra.Command {
	return &cobra.Command{Use: "kiln"}
}
