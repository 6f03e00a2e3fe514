package report_test

import (
	"strings"
	"testing"

	"github.com/kiln-build/kiln/nerdctlext/internal/golden"
	"github.com/kiln-build/kiln/nerdctlext/report"
)

func TestExplain(t *testing.T) {
	golden.Run(t, "testdata/explain.txt", func(t *testing.T, input string) string {
		exported := map[string]string{}
		if input != "nothing" {
			exported[report.ExplainOption] = input
		}
		var out strings.Builder
		if err := report.Explain(&out, exported); err != nil {
			return "error: " + err.Error()
		}
		return strings.TrimRight(out.String(), "\n")
	})
}
