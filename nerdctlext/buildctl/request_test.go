package buildctl

import (
	"bytes"
	"io"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/spf13/pflag"

	"github.com/kiln-build/kiln/nerdctlext"
	"github.com/kiln-build/kiln/nerdctlext/build"
	"github.com/kiln-build/kiln/nerdctlext/internal/golden"
)

// requestOf returns the request that a build's command line comes to.
func requestOf(env nerdctlext.Environment, argv []string) (*build.Request, error) {
	var f buildFlags
	flags := pflag.NewFlagSet("build", pflag.ContinueOnError)
	flags.SetInterspersed(false)
	f.register(flags)
	if err := flags.Parse(argv[1:]); err != nil {
		return nil, err
	}
	return f.request(env)
}

func TestRequests(t *testing.T) {
	golden.Run(t, "testdata/requests.txt", func(t *testing.T, input string) string {
		request, err := requestOf(golden.Case(input, io.Discard, io.Discard))
		if err != nil {
			return "error: " + err.Error()
		}
		request.Ref = ""
		text, err := golden.JSON(request)
		if err != nil {
			t.Fatal(err)
		}
		return text
	})
}

// definition is a graph of one step, as it comes on standard input.
func definition(t *testing.T) (content []byte, id string) {
	t.Helper()
	op, err := (&pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "local://src"}}}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	content, err = (&pb.Definition{Def: [][]byte{op}}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return content, string(digest.FromBytes(op))
}

func TestDefinitionOnStdin(t *testing.T) {
	t.Parallel()
	content, id := definition(t)
	env, _ := golden.Case("build", io.Discard, io.Discard)
	env.Stdin = bytes.NewReader(content)
	request, err := requestOf(env, []string{"build", "--local", "src=testdata", "--no-cache"})
	if err != nil {
		t.Fatal(err)
	}
	if len(request.Definition.Def) != 1 || !request.Definition.Metadata[id].IgnoreCache {
		t.Errorf("definition %v", request.Definition)
	}
	if _, set := request.Options["no-cache"]; set {
		t.Error("a frontend's option was set without a frontend")
	}
	env.Stdin = bytes.NewReader(content)
	if request, err = requestOf(env, []string{"build"}); err != nil || len(request.Definition.Metadata) != 0 {
		t.Errorf("without --no-cache: %v, %v", request, err)
	}
}
