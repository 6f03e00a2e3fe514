package golden

import (
	"encoding/json"
	"io"
	"strings"

	"github.com/kiln-build/kiln/nerdctlext"
)

// Case reads an input whose first lines may set the environment (env NAME=VALUE) and the
// standard input (stdin TEXT, with \n for a new line); the last line is a command.
func Case(input string, stdout, stderr io.Writer) (nerdctlext.Environment, []string) {
	variables := map[string]string{}
	stdin := ""
	var argv []string
	for line := range strings.SplitSeq(input, "\n") {
		if setting, ok := strings.CutPrefix(line, "env "); ok {
			name, value, _ := strings.Cut(setting, "=")
			variables[name] = value
		} else if text, ok := strings.CutPrefix(line, "stdin "); ok {
			stdin = strings.ReplaceAll(text, `\n`, "\n")
		} else {
			argv = Words(line)
		}
	}
	return nerdctlext.Environment{
		Lookup: func(name string) (string, bool) { value, ok := variables[name]; return value, ok },
		Stdin:  strings.NewReader(stdin),
		Stdout: stdout,
		Stderr: stderr,
		User:   1000,
	}, argv
}

// JSON writes a value for reading: indented, and without escapes for HTML.
func JSON(value any) (string, error) {
	var out strings.Builder
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	err := encoder.Encode(value)
	return out.String(), err
}
