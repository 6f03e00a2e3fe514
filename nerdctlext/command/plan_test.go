package command

import (
	"io"
	"maps"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/kiln-build/kiln/nerdctlext/build"
	"github.com/kiln-build/kiln/nerdctlext/internal/golden"
)

// planOf returns what a build's command line comes to.
func planOf(t *testing.T, input string) (*plan, error) {
	env, argv := golden.Case(input, io.Discard, io.Discard)
	f := &buildFlags{}
	flags := pflag.NewFlagSet("build", pflag.ContinueOnError)
	for _, g := range f.groups() {
		g.register(flags)
	}
	if err := flags.Parse(argv[1:]); err != nil {
		return nil, err
	}
	return f.plan(t.Context(), env, flags.Args())
}

// plain is the build without flags. The cases after it show only what is different.
const plain = "build testdata/app"

func leaveOut(request, usual *build.Request) {
	maps.DeleteFunc(request.Options, func(key, value string) bool {
		usually, set := usual.Options[key]
		return set && usually == value
	})
	maps.DeleteFunc(request.Locals, func(name string, local build.Local) bool {
		return reflect.DeepEqual(local, usual.Locals[name])
	})
	if reflect.DeepEqual(request.Outputs, usual.Outputs) {
		request.Outputs = nil
	}
	request.Frontend = ""
}

// layoutID is the id of a layout, which is made of its absolute path.
var layoutID = regexp.MustCompile(`\b[0-9a-f]{25}\b`)

func TestPlans(t *testing.T) {
	golden.Run(t, "testdata/plans.txt", func(t *testing.T, input string) string {
		p, err := planOf(t, input)
		if err != nil {
			return "error: " + err.Error()
		}
		if input != plain {
			usual, err := planOf(t, plain)
			if err != nil {
				t.Fatal(err)
			}
			leaveOut(p.request, usual.request)
		}
		p.request.Ref = ""
		text, err := golden.JSON(p.request)
		if err != nil {
			t.Fatal(err)
		}
		out := layoutID.ReplaceAllString(strings.TrimSpace(text), "LAYOUT-ID")
		for _, warning := range p.warnings {
			out += "\nwarning: " + warning
		}
		for option, upload := range p.request.Uploads {
			content, err := io.ReadAll(upload)
			if err != nil {
				t.Fatal(err)
			}
			out += "\nuploads " + option + ": " + strings.ToValidUTF8(string(content[:4]), "?")
		}
		return out
	})
}
