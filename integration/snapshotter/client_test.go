package snapshotter

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/stargz-snapshotter/fs/source"

	"github.com/kiln-build/kiln/integration/testbed"
)

// TestClientLibrary calls containerd as nerdctl does, whose module can't be
// required: it pulls with labels for snapshotters that are called "stargz", as
// kiln's is here, and removes images with all that only they need, at once.
func TestClientLibrary(t *testing.T) {
	t.Parallel()
	releases(t, func(t *testing.T, release testbed.Release) {
		b := startLazyOn(t, testbed.EStargz, func(t *testing.T, _ string) *bed {
			dir, plugin, flags := setup(t)
			plugin = strings.NewReplacer("proxy_plugins.kiln", "proxy_plugins.stargz", `"kiln"`, `"stargz"`).Replace(plugin)
			flags[slices.Index(flags, "kiln")] = "stargz"
			b := &bed{TB: t, containerd: release.StartIn(t, testbed.Dir(t), plugin), env: []string{"CONTAINERD_SNAPSHOTTER=stargz"}}
			b.daemon = testbed.StartDaemonIn(t, dir, append(flags, "--containerd-address", b.containerd.Socket, "--lazy-background-fetch=false")...)
			return b
		})
		c, err := client.New(b.containerd.Socket, client.WithDefaultNamespace("default"))
		b.must(err)
		defer c.Close()
		ctx := context.Background()
		labels := source.AppendExtraLabelsHandler(10<<20, snapshotters.AppendInfoHandlerWrapper(b.ref()))
		_, err = c.Pull(ctx, b.ref(), client.WithPullUnpack, client.WithPullSnapshotter("stargz"), client.WithImageHandlerWrapper(labels),
			client.WithResolver(docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost))})))
		b.must(err)
		b.notDownloaded()
		app := b.Host + "/app-" + b.repo + ":1"
		text := "FROM " + b.ref() + "\nRUN cat /noise/1 > /copy\nCMD wc -c /copy\n"
		if said := b.build(text, "--tag", app); strings.Count(said, "sharing layer") != 1 {
			t.Errorf("the build says\n%s", said)
		}
		remove := func(image string) {
			b.must(c.ImageService().Delete(ctx, image, images.SynchronousDelete()))
		}
		remove(b.ref())
		for _, round := range []string{"as built", "of the cache"} {
			if out := b.container(app); out != "524288 /copy\n" {
				t.Errorf("%s: the container says %q", round, out)
			}
			remove(app)
			if said := b.build(text, "--tag", app); !strings.Contains(said, "CACHED") {
				t.Errorf("%s: built again\n%s", round, said)
			}
		}
		b.notDownloaded()
		b.part("of the base")
		b.empty()
	})
}
