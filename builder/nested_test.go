package builder_test

import (
	"strings"
	"testing"

	"github.com/kiln-build/kiln/builder"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/llbbuild"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
)

// made is a file with the definition of a state.
func made(t *testing.T, st llb.State, file string) llb.State {
	t.Helper()
	dt, err := definition(t, st).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return llb.Scratch().File(llb.Mkfile(file, 0o644, dt))
}

func TestNestedDefinition(t *testing.T) {
	b := open(t, nil)
	inner := made(t, files(), "inner.pb").With(llbbuild.Build(llbbuild.WithFilename("/inner.pb")))
	outer := made(t, inner, pb.LLBDefaultDefinitionFile).With(llbbuild.Build())
	copied := llb.Scratch().File(llb.Copy(outer, "/a", "/b"))
	read := func() string {
		bridge, end := drive(t, b, builder.Request{Ref: "nested"})
		defer end()
		dt, err := solve(t, bridge, copied).ReadFile(t.Context(), gwclient.ReadRequest{Filename: "/b/hello"})
		if err != nil {
			t.Fatal(err)
		}
		return string(dt)
	}
	for range 2 {
		if got := read(); got != "hello" {
			t.Fatalf("got %q", got)
		}
	}
	// Without the inner steps' records, the outer one still has its layer.
	drop := func(filter string) {
		t.Helper()
		if err := b.Prune(t.Context(), cache.PruneRequest{All: true, Filters: []string{filter}}, func(cache.Usage) {}); err != nil {
			t.Fatal(err)
		}
	}
	drop("description~=copy")
	drop("description~=make")
	if got := read(); got != "hello" {
		t.Errorf("after the prune: %q", got)
	}
	if err := b.Prune(t.Context(), cache.PruneRequest{All: true}, func(cache.Usage) {}); err != nil {
		t.Fatal(err)
	}
	if usage, err := b.DiskUsage(t.Context(), nil); err != nil || len(usage) > 0 {
		t.Errorf("left: %v, %v", usage, err)
	}
}

func TestNestedDefinitionRefused(t *testing.T) {
	b := open(t, func(c *builder.Config) { c.Entitlements = []string{"network.host"} })
	with := func(data string) llb.State {
		return llb.Scratch().File(llb.Mkfile(pb.LLBDefaultDefinitionFile, 0o644, []byte(data))).With(llbbuild.Build())
	}
	host := llb.Scratch().Run(llb.Shlex("/true"), llb.Network(llb.NetModeHost)).Root()
	insecure := llb.Scratch().Run(llb.Shlex("/true"), llb.Security(llb.SecurityModeInsecure)).Root()
	device := llb.Scratch().Run(llb.Shlex("/true"), llb.AddCDIDevice(llb.CDIDeviceName("acme.com/card=a"))).Root()
	for name, c := range map[string]struct {
		st   llb.State
		want string
	}{
		"no file":          {llb.Scratch().File(llb.Mkdir("/x", 0o755)).With(llbbuild.Build()), "no such file"},
		"a directory":      {llb.Scratch().File(llb.Mkdir("/x", 0o755)).With(llbbuild.Build(llbbuild.WithFilename("x"))), "not a regular file"},
		"out of the tree":  {llb.Scratch().File(llb.Symlink("../../../../etc/passwd", "/x")).With(llbbuild.Build(llbbuild.WithFilename("x"))), "no such file"},
		"garbage":          {with("garbage"), "invalid argument"},
		"not entitled":     {made(t, host, pb.LLBDefaultDefinitionFile).With(llbbuild.Build()), "network.host is not allowed"},
		"insecure":         {made(t, insecure, pb.LLBDefaultDefinitionFile).With(llbbuild.Build()), "security.insecure is not allowed"},
		"a device":         {made(t, device, pb.LLBDefaultDefinitionFile).With(llbbuild.Build()), "CDI device support is disabled"},
		"a failing inside": {made(t, llb.Scratch().File(llb.Rm("/nothing")), pb.LLBDefaultDefinitionFile).With(llbbuild.Build()), "rm /nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.Build(t.Context(), builder.Request{Ref: name, Definition: definition(t, c.st)}, event.Discard)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestNestedDefinitionOfItself: a step that would wait for itself fails.
func TestNestedDefinitionOfItself(t *testing.T) {
	b := open(t, nil)
	kept := llb.AddMount("/cache", llb.Scratch(), llb.AsPersistentCacheDir("kept", llb.CacheMountShared))
	fetched := system(t).Run(llb.Args([]string{"/bin/sh", "-c", "/bin/cat /cache/d > /out/" + pb.LLBDefaultDefinitionFile}), kept).
		AddMount("/out", llb.Scratch())
	loop := fetched.With(llbbuild.Build())
	put := system(t).Run(llb.Args([]string{"/bin/sh", "-c", "/bin/cat /in/d > /cache/d"}), kept, llb.AddMount("/in", made(t, loop, "d"))).Root()
	if _, err := b.Build(t.Context(), builder.Request{Ref: "put", Definition: definition(t, put)}, event.Discard); err != nil {
		t.Fatal(err)
	}
	_, err := b.Build(t.Context(), builder.Request{Ref: "loop", Definition: definition(t, loop)}, event.Discard)
	if err == nil || !strings.Contains(err.Error(), "needs the same step") {
		t.Errorf("got %v", err)
	}
}
