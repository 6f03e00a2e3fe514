package graph

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"
)

// replace is an edit of one source.
func replace(from, to string) Edits {
	return Edits{Source: func(_ context.Context, op *pb.Op) error {
		if src := op.GetSource(); src.Identifier == from {
			src.Identifier, src.Attrs = to, map[string]string{"a": "1", "b": "2", "c": "3"}
		}
		return nil
	}}
}

func byName(t *testing.T, e Edits, def *pb.Definition) map[string]*Step {
	t.Helper()
	g, err := e.Load(t.Context(), def, amd64)
	if err != nil {
		t.Fatal(err)
	}
	steps := map[string]*Step{}
	for _, s := range g.Steps {
		steps[s.Meta.Name] = s
		for i, in := range s.Inputs {
			if s.Op.Inputs[i].Digest != string(in.Step.Digest) {
				t.Errorf("step %q names its input %s, which is %s", s.Meta.Name, s.Op.Inputs[i].Digest, in.Step.Digest)
			}
		}
	}
	return steps
}

// TestEditSource: a changed source and what needs it have the digests that a
// definition with the other source has; what is said about them stays.
func TestEditSource(t *testing.T) {
	t.Parallel()
	st := marshal(t, sample())
	plain, same := byName(t, Edits{}, st), byName(t, replace("nothing", "x"), st)
	const name = "docker-image://docker.io/library/busybox:latest"
	edited, again := byName(t, replace(name, "docker-image://other"), st), byName(t, replace(name, "docker-image://other"), st)
	edited[name] = edited["docker-image://other"]
	again[name] = again["docker-image://other"]
	for n, s := range plain {
		if same[n].Digest != s.Digest {
			t.Errorf("%s: an edit that changes nothing changes its digest", n)
		}
		e := edited[n]
		if e == nil {
			t.Fatalf("no step %q among %v", n, edited)
		}
		dt, err := proto.MarshalOptions{Deterministic: true}.Marshal(e.Op)
		if err != nil || e.Digest != digest.FromBytes(dt) || e.Digest != again[n].Digest {
			t.Errorf("%s: digest %s, again %s, of the op %s, %v", n, e.Digest, again[n].Digest, digest.FromBytes(dt), err)
		}
		if changed := e.Digest != s.Digest; changed != (n != "load the context") {
			t.Errorf("%s: changed is %t", n, changed)
		}
	}
	if !edited["make all"].Meta.IgnoreCache {
		t.Error("what the definition says about a step is lost")
	}
}

func TestEditRefuses(t *testing.T) {
	t.Parallel()
	why := errors.New("why")
	e := Edits{Source: func(context.Context, *pb.Op) error { return why }}
	if _, err := e.Load(t.Context(), marshal(t, sample()), amd64); !errors.Is(err, why) || errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
	e.Source = func(_ context.Context, op *pb.Op) error {
		op.GetSource().Identifier = ""
		return nil
	}
	if _, err := e.Load(t.Context(), marshal(t, sample()), amd64); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a source without a name: %v", err)
	}
	if _, err := e.Load(t.Context(), define(t, &pb.Op{Op: &pb.Op_Source{Source: nil}}), amd64); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a source that isn't there: %v", err)
	}
}

// TestEditAtOnce: who decides about one source may wait for another.
func TestEditAtOnce(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup
	all.Add(2)
	e := Edits{Source: func(context.Context, *pb.Op) error {
		all.Done()
		all.Wait()
		return nil
	}}
	if _, err := e.Load(t.Context(), marshal(t, sample()), amd64); err != nil {
		t.Fatal(err)
	}
}

func TestProxied(t *testing.T) {
	t.Parallel()
	base := llb.Image("docker.io/library/busybox:latest")
	st := marshal(t, base.Run(llb.Shlex("one")).Run(llb.Shlex("two"), llb.Network(llb.NetModeNone)).Run(llb.Shlex("three"), llb.Network(llb.NetModeHost)).Root())
	plain, proxied := byName(t, Edits{}, st), byName(t, Edits{Proxy: true}, st)
	for name, want := range map[string]bool{"one": true, "two": false, "three": true} {
		if proxied[name].Proxied != want || plain[name].Proxied {
			t.Errorf("%s: proxied %t", name, proxied[name].Proxied)
		}
	}
	dt, err := proto.MarshalOptions{Deterministic: true}.Marshal(plain["one"].Op)
	if err != nil {
		t.Fatal(err)
	}
	if want := digest.FromString(string(dt) + "\x00buildkit.proxy-network.v0"); proxied["one"].Digest != want {
		t.Errorf("digest %s, want %s", proxied["one"].Digest, want)
	}
	if proxied["two"].Digest == plain["two"].Digest {
		t.Error("a step whose input is another one has the same digest")
	}
}
