package graph

import (
	"context"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}

func marshal(t testing.TB, st llb.State) *pb.Definition {
	t.Helper()
	def, err := st.Marshal(context.Background(), llb.Platform(amd64))
	if err != nil {
		t.Fatal(err)
	}
	return def.ToPB()
}

func sample() llb.State {
	base := llb.Image("docker.io/library/busybox:latest")
	src := llb.Local("context", llb.WithCustomName("load the context"))
	run := base.Run(llb.Shlex("make all"), llb.AddMount("/src", src, llb.Readonly), llb.IgnoreCache).Root()
	return run.File(llb.Copy(src, "/a", "/b").Mkdir("/c", 0o755))
}

func TestLoad(t *testing.T) {
	g, err := Load(marshal(t, sample()), amd64)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[*Step]bool{}
	names := map[string]*Step{}
	for _, s := range g.Steps {
		for _, in := range s.Inputs {
			if !seen[in.Step] {
				t.Errorf("step %q comes before its input %q", s.Meta.Name, in.Step.Meta.Name)
			}
		}
		seen[s] = true
		names[s.Meta.Name] = s
	}
	for _, want := range []string{"docker-image://docker.io/library/busybox:latest", "load the context", "make all", "copy{src=/a, dest=/b}, mkdir{path=/c}"} {
		if names[want] == nil {
			t.Errorf("no step %q among %v", want, names)
		}
	}
	if s := names["make all"]; s != nil && (!s.Meta.IgnoreCache || s.Outputs != 1 || len(s.Inputs) != 2) {
		t.Errorf("step %q: %+v", s.Meta.Name, s)
	}
	if g.Result.Step != g.Steps[len(g.Steps)-1] {
		t.Error("the result isn't the last step")
	}
}

// op returns the bytes and the digest of an op.
func op(t testing.TB, o *pb.Op) ([]byte, string) {
	t.Helper()
	dt, err := o.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return dt, digest.FromBytes(dt).String()
}

// define makes a definition of the ops, each of which has the one before as
// its only input where inputs is true, and a result.
func define(t testing.TB, o *pb.Op) *pb.Definition {
	t.Helper()
	src, srcDigest := op(t, &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "docker-image://x"}}})
	if o.Inputs == nil {
		o.Inputs = []*pb.Input{{Digest: srcDigest}}
	}
	dt, d := op(t, o)
	last, _ := op(t, &pb.Op{Inputs: []*pb.Input{{Digest: d}}})
	return &pb.Definition{Def: [][]byte{src, dt, last}}
}

func TestLoadRefuses(t *testing.T) {
	meta := &pb.Meta{Args: []string{"true"}}
	root := &pb.Mount{Dest: "/", Input: 0, Output: 0}
	exec := func(e *pb.ExecOp) *pb.Op { return &pb.Op{Op: &pb.Op_Exec{Exec: e}} }
	mount := func(m *pb.Mount) *pb.Op {
		m.Dest, m.Input, m.Output = "/x", -1, -1
		return exec(&pb.ExecOp{Meta: meta, Mounts: []*pb.Mount{root, m}})
	}
	file := func(a ...*pb.FileAction) *pb.Op { return &pb.Op{Op: &pb.Op_File{File: &pb.FileOp{Actions: a}}} }
	mkdir := &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: "/a"}}
	for name, tc := range map[string]struct {
		op   *pb.Op
		want string
	}{
		"exec without meta":       {exec(&pb.ExecOp{Mounts: []*pb.Mount{root}}), "exec without meta"},
		"exec without args":       {exec(&pb.ExecOp{Meta: &pb.Meta{}, Mounts: []*pb.Mount{root}}), "exec without args"},
		"exec without mounts":     {exec(&pb.ExecOp{Meta: meta}), "exec without mounts"},
		"exec without root":       {exec(&pb.ExecOp{Meta: meta, Mounts: []*pb.Mount{{Dest: "/x", Output: 0}}}), "exec without a mount at /"},
		"mount of no input":       {exec(&pb.ExecOp{Meta: meta, Mounts: []*pb.Mount{{Dest: "/", Input: 7}}}), "there is no input 7"},
		"mount of input -2":       {exec(&pb.ExecOp{Meta: meta, Mounts: []*pb.Mount{{Dest: "/", Input: -2}}}), "there is no input -2"},
		"unknown mount type":      {exec(&pb.ExecOp{Meta: meta, Mounts: []*pb.Mount{root, {Dest: "/x", Output: -1, MountType: 99}}}), "type 99 is not known"},
		"unknown sharing mode":    {mount(&pb.Mount{MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{Sharing: 3}}), "invalid sharing mode 3"},
		"negative tmpfs":          {mount(&pb.Mount{MountType: pb.MountType_TMPFS, TmpfsOpt: &pb.TmpfsOpt{Size: -1}}), "size -1 of a tmpfs is negative"},
		"secret without options":  {mount(&pb.Mount{MountType: pb.MountType_SECRET}), "secret mount without options"},
		"secret's mode":           {mount(&pb.Mount{MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "s", Mode: 0o10400}}), "mode 010400 is not one of a file"},
		"secret's user":           {mount(&pb.Mount{MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "s", Uid: 1<<32 - 1}}), "user 4294967295"},
		"agent without options":   {mount(&pb.Mount{MountType: pb.MountType_SSH}), "ssh mount without options"},
		"agent's group":           {mount(&pb.Mount{MountType: pb.MountType_SSH, SSHOpt: &pb.SSHOpt{Gid: 1<<32 - 1}}), "group 4294967295"},
		"unknown network":         {exec(&pb.ExecOp{Meta: meta, Mounts: []*pb.Mount{root}, Network: 42}), "network mode 42"},
		"unknown security":        {exec(&pb.ExecOp{Meta: meta, Mounts: []*pb.Mount{root}, Security: -7}), "invalid security mode -7"},
		"an output twice":         {exec(&pb.ExecOp{Meta: meta, Mounts: []*pb.Mount{root, {Dest: "/x", Output: 0}}}), "output 0 is made twice"},
		"an output left out":      {exec(&pb.ExecOp{Meta: meta, Mounts: []*pb.Mount{{Dest: "/", Output: 1}, {Dest: "/x", Output: -1}}}), "output 0 is missing"},
		"file without actions":    {file(), "without actions"},
		"file action of later":    {file(&pb.FileAction{Input: 1, SecondaryInput: -1, Action: mkdir}), "there is no input 1"},
		"empty file action":       {file(&pb.FileAction{Input: 0, SecondaryInput: -1}), "file action 0 is missing"},
		"diff without lower":      {&pb.Op{Op: &pb.Op_Diff{Diff: &pb.DiffOp{}}}, "diff without lower or upper"},
		"merge of no input":       {&pb.Op{Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{Input: 3}}}}}, "merge input 0"},
		"passthrough without id":  {&pb.Op{Op: &pb.Op_Passthrough{Passthrough: &pb.PassthroughOp{}}}, "passthrough without id"},
		"passthrough of no input": {&pb.Op{Op: &pb.Op_Passthrough{Passthrough: &pb.PassthroughOp{Id: "x", Outputs: []int64{4}}}}, "there is no input 4"},
		"negative input index":    {&pb.Op{Inputs: []*pb.Input{{Digest: "sha256:x", Index: -1}}, Op: &pb.Op_Merge{Merge: &pb.MergeOp{}}}, "not in the definition"},
		"no body in the middle":   {&pb.Op{}, "it has no body"},
		"source without name":     {&pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{}}}, "without an identifier"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(define(t, tc.op), amd64)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%v is not an invalid argument", err)
			}
		})
	}
}

// TestLoadMountsWithoutOutput: mounts that are no trees leave their output at 0.
func TestLoadMountsWithoutOutput(t *testing.T) {
	g, err := Load(define(t, &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{
		Meta: &pb.Meta{Args: []string{"true"}},
		Mounts: []*pb.Mount{
			{Dest: "/"},
			{Dest: "/secret", Input: -1, MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "s"}},
			{Dest: "/ssh", Input: -1, MountType: pb.MountType_SSH, SSHOpt: &pb.SSHOpt{ID: "a"}},
		},
	}}}), amd64)
	if err != nil {
		t.Fatal(err)
	}
	if n := g.Result.Step.Outputs; n != 1 {
		t.Errorf("%d outputs, want only the root's", n)
	}
}

func TestLoadRefusesDefinitions(t *testing.T) {
	good := marshal(t, sample())
	for name, def := range map[string]*pb.Definition{
		"nil":             nil,
		"empty":           {},
		"one op":          {Def: good.Def[:1]},
		"garbage":         {Def: [][]byte{{0xff, 0xff}, {1, 2, 3}}},
		"no result":       {Def: good.Def[:2]},
		"op missing":      {Def: good.Def[1:]},
		"unknown ability": withCap(good, "source.fax"),
	} {
		if _, err := Load(def, amd64); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func withCap(def *pb.Definition, id string) *pb.Definition {
	c := def.CloneVT()
	for _, m := range c.Metadata {
		m.Caps = map[string]bool{id: true}
	}
	return c
}

// TestLoadDeep: a chain of steps is no danger to the stack.
func TestLoadDeep(t *testing.T) {
	dt, d := op(t, &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "local://x"}}})
	def := &pb.Definition{Def: [][]byte{dt}}
	for range 20000 {
		dt, d = op(t, &pb.Op{Inputs: []*pb.Input{{Digest: d}}, Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{Input: 0}}}}})
		def.Def = append(def.Def, dt)
	}
	dt, _ = op(t, &pb.Op{Inputs: []*pb.Input{{Digest: d}}})
	def.Def = append(def.Def, dt)
	g, err := Load(def, amd64)
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Steps) != 20001 {
		t.Errorf("%d steps", len(g.Steps))
	}
}

func TestCapsAreSupported(t *testing.T) {
	for _, c := range Caps() {
		if err := supports(c.ID); err != nil {
			t.Error(err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	def := marshal(f, sample())
	dt, err := def.MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(dt)
	f.Fuzz(func(t *testing.T, dt []byte) {
		def := new(pb.Definition)
		if def.UnmarshalVT(dt) != nil {
			return
		}
		g, err := Load(def, amd64)
		if err == nil && g.Result.Step == nil {
			t.Error("no result and no error")
		}
	})
}
