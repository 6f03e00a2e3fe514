// Command kiln-init is what kilnd starts in a sandbox: it makes the sandbox and then
// executes the process that the sandbox is for. It is of no use to people.
package main

import (
	"runtime"

	"github.com/kiln-build/kiln/builder/sandbox/inside"
)

// The order is carried out by the first thread, which is what others see of this
// process.
func init() { runtime.LockOSThread() }

func main() { inside.Main() }
