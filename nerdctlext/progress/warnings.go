package progress

import (
	"fmt"
	"io"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/errdefs"
)

// PrintWarnings writes the warnings of a build with the lines that they are about.
func PrintWarnings(out io.Writer, warnings []client.VertexWarning) {
	if len(warnings) == 0 {
		return
	}
	plural := "s"
	if len(warnings) == 1 {
		plural = ""
	}
	fmt.Fprintf(out, "\n %d warning%s found:\n", len(warnings), plural)
	for _, warning := range warnings {
		fmt.Fprintf(out, " - %s", warning.Short)
		if warning.URL != "" {
			fmt.Fprintf(out, " (%s)", warning.URL)
		}
		fmt.Fprintln(out)
		for _, detail := range warning.Detail {
			fmt.Fprintf(out, "   %s\n", detail)
		}
		if excerpt, ok := sourceOf(warning); ok {
			_ = excerpt.Print(out)
		}
	}
	fmt.Fprintln(out)
}

func sourceOf(warning client.VertexWarning) (*errdefs.Source, bool) {
	if warning.SourceInfo == nil || len(warning.Range) == 0 {
		return nil, false
	}
	for _, r := range warning.Range {
		if r.GetStart() == nil || r.GetEnd() == nil {
			return nil, false
		}
	}
	return &errdefs.Source{Info: warning.SourceInfo, Ranges: warning.Range}, true
}
