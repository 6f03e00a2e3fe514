package integration

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/integration/testbed"
)

// TestRemoteLayers: an image of which only the configuration is new leaves its
// base's layers in the registry until somebody needs them.
func TestRemoteLayers(t *testing.T) {
	t.Parallel()
	img, err := testbed.Busybox()
	if err == nil {
		img, err = testbed.WithNoise(img, 4, 512<<10)
	}
	if err == nil {
		err = registry.PushImage("remote:base", img)
	}
	if err != nil {
		t.Fatal(err)
	}
	layers, size, err := testbed.LayerDigests(img)
	if err != nil {
		t.Fatal(err)
	}
	onBoth(t, func(b *bed) {
		counter := registry.Count()
		b.Cleanup(counter.Close)
		repo := counter.Host + "/remote"
		dir := b.files("-- config/Dockerfile --\nFROM " + repo + ":base\nENV A=b\n-- step/Dockerfile --\nFROM " + repo + ":base\nRUN test -f /noise/3\n")
		build := func(folder string, args ...string) {
			b.Helper()
			b.run(b.daemon.Client("buildctl", append([]string{"build", "--frontend=dockerfile.v0", "--local=context=" + dir, "--local=dockerfile=" + filepath.Join(dir, folder)}, args...)...))
		}
		fetched := func(want int64, what string) {
			b.Helper()
			if n := counter.Fetched(layers...); n != want {
				b.Errorf("%s: %d bytes of the base's %d are fetched by now, want %d", what, n, size, want)
			}
		}
		tag := "remote:" + filepath.Base(b.Name())
		build("config", "--output=type=image,push=true,store=false,name="+counter.Host+"/"+tag)
		fetched(0, "pushed where the base is")
		pushed, err := registry.Image(tag)
		b.must(err)
		config, err := pushed.ConfigFile()
		b.must(err)
		if have, _, err := testbed.LayerDigests(pushed); err != nil || !slices.Equal(have, layers) || !slices.Contains(config.Config.Env, "A=b") {
			b.Errorf("the image has layers %v and environment %v (%v), want those of the base, %v, and A=b", have, config.Config.Env, err, layers)
		}
		build("config", "--output=type=oci,dest="+filepath.Join(b.TempDir(), "image.tar"))
		fetched(size, "written to an archive")
		for _, r := range b.du() {
			if strings.HasPrefix(r.Description, "pulled from") {
				b.Errorf("the base was %s, but nobody needed files", r.Description)
			}
		}
		build("step")
		all := counter.Fetched(layers...)
		build("config", "--output=type=oci,dest="+filepath.Join(b.TempDir(), "image.tar"))
		fetched(all, "written to an archive after a step has run")
	})
}
