// Command kiln is kiln's client: it builds images, and shows and clears what a daemon
// keeps. Called as buildctl it has the command line of BuildKit's client.
package main

import (
	"os"
	"path/filepath"

	"github.com/kiln-build/kiln/nerdctlext"
	"github.com/kiln-build/kiln/nerdctlext/buildctl"
	"github.com/kiln-build/kiln/nerdctlext/command"
	"github.com/kiln-build/kiln/nerdctlext/perform"
)

// version is set by the linker in releases.
var version string

func main() {
	env := nerdctlext.Environment{
		Lookup: os.LookupEnv,
		Stdin:  os.Stdin,
		Stdout: os.Stdout,
		Stderr: os.Stderr,

		Version: nerdctlext.VersionOf(version),
		User:    os.Geteuid(),
	}
	root := command.New(env)
	if filepath.Base(os.Args[0]) == "buildctl" {
		root = buildctl.New(env)
	}
	os.Exit(perform.Main(root, env.Stderr))
}
