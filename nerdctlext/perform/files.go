package perform

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/continuity"

	"github.com/kiln-build/kiln/nerdctlext/build"
)

// writeMetadata writes what the exporters answered as one JSON object. A value that is a
// JSON object in base64 is written as that object.
func writeMetadata(path string, exported map[string]string) error {
	out := map[string]any{}
	for key, value := range exported {
		out[key] = value
		decoded, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			continue
		}
		var object map[string]any
		if json.Unmarshal(decoded, &object) == nil && len(object) > 0 {
			out[key] = json.RawMessage(decoded)
		}
	}
	content, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	return continuity.AtomicWriteFile(path, content, 0o666)
}

// PrintSubrequest prints what a frontend answered to a subrequest: its text, or failing
// that everything that it calls a result.
func PrintSubrequest(out io.Writer, result *build.Result) error {
	if text, ok := result.Metadata["result.txt"]; ok {
		_, err := out.Write(text)
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(result.Metadata)) {
		if strings.HasPrefix(key, "result.") {
			if _, err := fmt.Fprintf(out, "%s\n%s\n", key, result.Metadata[key]); err != nil {
				return err
			}
		}
	}
	return nil
}
