package command

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/kiln-build/kiln/nerdctlext/build"
	"github.com/kiln-build/kiln/nerdctlext/perform"
)

// call is a question to the frontend in place of a build.
type call struct {
	name         string // as in requestid, without "frontend."; empty is a build
	json         bool
	ignoreStatus bool
}

// callNames are the values of --call, and what the frontend calls them.
var callNames = map[string]string{
	"build": "", "": "",
	"check": "lint", "lint": "lint",
	"outline": "outline", "targets": "targets",
	"subrequests.describe": "subrequests.describe",
}

func parseCall(text string) (call, error) {
	word, rest, _ := strings.Cut(text, ",")
	name, known := callNames[word]
	if !known {
		return call{}, fmt.Errorf("call %q: it is build, check, outline, targets or subrequests.describe", word)
	}
	c := call{name: name}
	for rest != "" {
		var field string
		field, rest, _ = strings.Cut(rest, ",")
		key, value, _ := strings.Cut(field, "=")
		switch {
		case key == "format" && (value == "json" || value == "text"):
			c.json = value == "json"
		case key == "ignorestatus":
			yes, err := strconv.ParseBool(value)
			if value != "" && err != nil {
				return call{}, fmt.Errorf("call: ignorestatus: %w", err)
			}
			c.ignoreStatus = yes || value == ""
		default:
			return call{}, fmt.Errorf("call: %q is not format=json, format=text or ignorestatus=true", field)
		}
	}
	return c, nil
}

// print prints the frontend's answer. A check that found something is an error.
func (c call) print(out io.Writer, result *build.Result) error {
	if text, ok := result.Metadata["result.json"]; ok && c.json {
		if _, err := fmt.Fprintf(out, "%s\n", text); err != nil {
			return err
		}
	} else if err := perform.PrintSubrequest(out, result); err != nil {
		return err
	}
	status := string(result.Metadata["result.statuscode"])
	if status != "" && status != "0" && !c.ignoreStatus {
		return fmt.Errorf("%s found something to mend", c.name)
	}
	return nil
}
