package value

import (
	"fmt"
	"strconv"

	"github.com/kiln-build/kiln/nerdctlext/build"
)

// Output reads one --output. The destination leaves the attributes: it is this side's
// business.
func Output(text string) (build.Output, error) {
	kind, attrs, err := typed(text)
	if err != nil {
		return build.Output{}, fmt.Errorf("invalid output option: %w", err)
	}
	if wrong, ok := attrs["output"]; ok {
		return build.Output{}, fmt.Errorf("output=%s not supported for --output, you meant dest=%s?", wrong, wrong)
	}
	dest, hasDest := attrs["dest"]
	delete(attrs, "dest")
	output := build.Output{Type: kind, Attrs: attrs}
	switch form(kind, attrs) {
	case toDir:
		if dest == "" {
			return build.Output{}, fmt.Errorf("output directory is required for %s exporter: add dest=DIR", kind)
		}
		output.Dir = dest
	case toFile:
		output.File = dest
		if dest == "" {
			output.File = "-"
		}
	default:
		if hasDest && dest != "" {
			return build.Output{}, fmt.Errorf("output %s is not supported by %s exporter", dest, kind)
		}
	}
	return output, nil
}

type destination int

const (
	toDaemon destination = iota // nothing comes back
	toDir
	toFile
)

func form(kind string, attrs map[string]string) destination {
	switch kind {
	case "local":
		return toDir
	case "tar":
		return toFile
	case "oci", "docker":
		if archive, err := strconv.ParseBool(attrs["tar"]); err == nil && !archive {
			return toDir
		}
		return toFile
	}
	return toDaemon
}

// Outputs reads several --output and sees that they fit together and that no archive
// would be written to a terminal.
func Outputs(list []string, stdoutIsTerminal func() bool) ([]build.Output, error) {
	var outputs []build.Output
	for _, text := range list {
		output, err := Output(text)
		if err != nil {
			return nil, err
		}
		outputs = append(outputs, output)
	}
	return outputs, CheckOutputs(outputs, stdoutIsTerminal)
}

// CheckOutputs returns an error when two outputs want standard output, or one does that
// is a terminal.
func CheckOutputs(outputs []build.Output, stdoutIsTerminal func() bool) error {
	var first string
	for _, output := range outputs {
		if output.File != "-" {
			continue
		}
		if first != "" {
			return fmt.Errorf("outputs %s and %s cannot both go to standard output: give one of them dest=FILE", first, output.Type)
		}
		first = output.Type
		if stdoutIsTerminal() {
			return fmt.Errorf("output file is required for %s exporter, refusing to write to console: add dest=FILE or redirect standard output", output.Type)
		}
	}
	return nil
}
