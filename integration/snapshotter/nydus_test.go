//go:build nydus

package snapshotter

import (
	"archive/tar"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kiln-build/kiln/integration/testbed"
)

const nydusConfig = `version = 1
root = %q
address = %q
daemon_mode = "none"
[system]
enable = false
[daemon]
fs_driver = "nodev"
recover_policy = "none"
[cgroup]
enable = false
[log]
log_to_stdout = true
level = "info"
[metrics]
address = ""
[cache_manager]
disable = true
`

// nydus starts nydus-snapshotter without the program that shows nydus's files, which
// can't be had here: what it makes of labels can be seen all the same.
func nydus(t *testing.T, _ string) *bed {
	t.Helper()
	dir := testbed.Dir(t)
	socket, config := filepath.Join(dir, "nydus.sock"), filepath.Join(dir, "nydus.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, nydusConfig, filepath.Join(dir, "root"), socket), 0o600); err != nil {
		t.Fatal(err)
	}
	testbed.StartServer(t, dir, func() error { return testbed.Answers("unix://" + socket) }, "containerd-nydus-grpc", "--config", config)
	c := testbed.StartContainerdIn(t, testbed.Dir(t), noKubernetes+fmt.Sprintf("[proxy_plugins.nydus]\ntype = \"snapshot\"\naddress = %q\n", socket))
	d := testbed.StartDaemonIn(t, testbed.Dir(t), "--backend", "host", "--snapshotter", "nydus", "--containerd-address", c.Socket)
	return &bed{TB: t, daemon: d, containerd: c, env: []string{"CONTAINERD_SNAPSHOTTER=nydus"}}
}

// nydusImage has a layer that only nydus could show, and one that says so.
func nydusImage(t *testing.T) v1.Image {
	t.Helper()
	const kind = "application/vnd.oci.image.layer.nydus.blob.v1"
	data := make([]byte, 1<<20)
	_, err := rand.Read(data)
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, add := range []mutate.Addendum{
		{Layer: static.NewLayer(data, kind), MediaType: kind, Annotations: map[string]string{"containerd.io/snapshot/nydus-blob": "true"}},
		{
			Layer:       plainLayer(t, []tar.Header{{Name: "image/", Mode: 0o755}, {Name: "image/image.boot", Size: 4096, Mode: 0o644}}),
			Annotations: map[string]string{"containerd.io/snapshot/nydus-bootstrap": "true", "containerd.io/snapshot/nydus-fs-version": "6"},
		},
	} {
		if err == nil {
			img, err = mutate.Append(img, add)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

func TestNydus(t *testing.T) {
	b := nydus(t, "")
	b.build(app, "--tag", "example.test/app")
	b.says("example.test/app:latest")

	counter := registry.Count()
	t.Cleanup(counter.Close)
	img := nydusImage(t)
	b.must(registry.PushImage("nydus:1", img))
	digests, _, err := testbed.LayerDigests(img)
	b.must(err)
	b.build("FROM "+counter.Host+"/nydus:1\nENV A=b\n", "--tag", counter.Host+"/nydus-app:1", "--push")
	pushed, err := registry.Image("nydus-app:1")
	b.must(err)
	manifest, err := pushed.Manifest()
	b.must(err)
	original, err := img.Manifest()
	b.must(err)
	for i, l := range original.Layers {
		got := manifest.Layers[i]
		if got.Digest != l.Digest || got.MediaType != l.MediaType {
			t.Errorf("layer %d is %v, in the base %v", i, got, l)
		}
		for k, v := range l.Annotations {
			if got.Annotations[k] != v {
				t.Errorf("layer %d lacks %s=%s", i, k, v)
			}
		}
	}
	// The program that would show the files is told which image they are from.
	_, err = b.try(b.building("FROM " + counter.Host + "/nydus:1\nRUN true\n"))
	if err == nil || strings.Contains(err.Error(), "failed to find image ref") {
		t.Errorf("a step on it: %v", err)
	} else {
		t.Logf("a step on it: %s", last(err.Error()))
	}
	if n := counter.Fetched(digests[0]); n > 0 {
		t.Errorf("%d bytes of the layer that nydus shows were fetched", n)
	}
	for image := range strings.FieldsSeq(b.ctr("images", "ls", "-q")) {
		b.remove(image)
	}
	b.kiln("prune", "--all")
	b.must(testbed.Eventually(20*time.Second, func() error {
		b.collect()
		if left := b.ctr("snapshots", "ls"); strings.Count(left, "\n") > 1 {
			return fmt.Errorf("left:\n%s", left)
		}
		return nil
	}))
}
