package export

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/kiln-build/kiln/builder/store/host"
	"github.com/kiln-build/kiln/builder/store/storetest"
)

// An image that was built is one that a containerd of its own can run, in the
// namespace that was asked for, and stays so when the engine has forgotten it.
func TestImageInContainerd(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	address := storetest.Containerd(t)
	st, err := host.Open(ctx, host.Config{Address: address, Namespace: "k8s.io"})
	if err != nil {
		t.Fatal(err)
	}
	e := newEnvOn(t, st, t.TempDir())
	top := e.layer(t, e.layer(t, nil, map[string]string{"a": "1"}), map[string]string{"b": "2"})
	out := e.mustExport(t, Target{Type: "image", Attrs: parse("name=docker.io/library/x:1,unpack=true,compression=zstd")}, single(top))
	out.Release()
	e.forget(t)

	c, err := client.New(address, client.WithDefaultNamespace("k8s.io"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx = namespaces.WithNamespace(ctx, "k8s.io")
	img, err := c.GetImage(ctx, "docker.io/library/x:1")
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := img.IsUnpacked(ctx, st.Snapshotter); !ok || err != nil {
		t.Errorf("unpacked: %v, %v", ok, err)
	}
	complete(t, ctx, c.ContentStore(), img.Target())
	if _, err := c.NewContainer(ctx, "try", client.WithSnapshotter(st.Snapshotter), client.WithNewSnapshot("try", img)); err != nil {
		t.Error(err)
	}
}
