package command

import (
	"strings"
	"testing"

	"github.com/kiln-build/kiln/nerdctlext/internal/golden"
)

func TestExplain(t *testing.T) {
	golden.Run(t, "testdata/explain.txt", func(t *testing.T, input string) string {
		exported := map[string]string{}
		if input != "nothing" {
			exported[explainOption] = input
		}
		var out strings.Builder
		if err := explain(&out, exported); err != nil {
			return "error: " + err.Error()
		}
		return strings.TrimRight(out.String(), "\n")
	})
}
