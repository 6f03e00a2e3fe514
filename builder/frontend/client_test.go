package frontend

import (
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
)

func TestInputs(t *testing.T) {
	t.Parallel()
	def, err := llb.Scratch().File(llb.Mkfile("f", 0o600, nil)).Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := &client{inputs: map[string]*pb.Definition{"context": def.ToPB()}}
	if got, err := c.Inputs(t.Context()); err != nil || len(got) != 1 || got["context"].Output() == nil {
		t.Errorf("got %v, %v", got, err)
	}
	for name, def := range map[string]*pb.Definition{"nil": nil, "empty": {}, "no operation": {Def: [][]byte{{0xff}}}} {
		c := &client{inputs: map[string]*pb.Definition{"context": def}}
		if _, err := c.Inputs(t.Context()); err == nil || !strings.Contains(err.Error(), "input context: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
