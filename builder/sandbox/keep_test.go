package sandbox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/kiln-build/kiln/builder/event/usage"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/sandboxtest"
)

// keepless is runc but for a flag that not all runtimes have.
const keepless = `#!/bin/sh
case " $* " in
*" --help "*) echo usage: run; exit ;;
*" --keep "*) echo unknown flag >&2; exit 1 ;;
esac
exec %s "$@"
`

// TestRuntimeWithoutKeep: what a process used is known although the runtime has removed
// its cgroup.
func TestRuntimeWithoutKeep(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "runtime")
	if err := os.WriteFile(file, fmt.Appendf(nil, keepless, sandboxtest.RuntimeBinary(t)), 0o755); err != nil {
		t.Fatal(err)
	}
	r, _ := newLocal(t, func(c *sandbox.Config) { c.Binary = file })
	var last usage.Sample
	s := sandbox.Spec{
		ID: "keepless", Root: sandboxtest.NewRoot(t), Args: []string{"/bin/true"},
		Resources: sandbox.Resources{Pids: 50}, Observe: func(u usage.Sample) { last = u },
	}
	if err := r.Run(t.Context(), s, sandbox.IO{}, nil); err != nil {
		t.Fatal(err)
	}
	if last.CPU == nil || last.CPU.UsageNanos == nil || *last.CPU.UsageNanos == 0 {
		t.Errorf("used %+v", last)
	}
}
