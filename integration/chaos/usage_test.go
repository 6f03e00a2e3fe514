package chaos

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
)

const manyFiles = `
RUN dd if=/dev/urandom of=/a bs=1M count=8 && ln /a /b
RUN mkdir /d && for i in $(seq 300); do echo $i > /d/$i; done
RUN --mount=type=cache,target=/c dd if=/dev/urandom of=/c/x bs=1M count=4
RUN dd if=/dev/zero of=/sparse bs=1 count=1 seek=50000000
COPY busybox /again
`

// onDisk is how much a folder takes, without what is mounted there, as du says.
func onDisk(b *bed, dir string) (bytes int64) {
	b.Helper()
	out, err := exec.Command("du", "-s", "-x", "-B1", dir).Output()
	b.must(err)
	_, err = fmt.Sscan(string(out), &bytes)
	b.must(err)
	return bytes
}

// near fails unless two sums are within one per cent of each other.
func near(b *bed, what string, got, want int64) {
	b.Helper()
	b.Logf("%s: kiln du says %d bytes, it is %d (%+.2f %%)", what, got, want, 100*float64(got-want)/float64(max(want, 1)))
	if diff := got - want; diff > want/100 || diff < -want/100 {
		b.Errorf("%s: du says %d, it is %d", what, got, want)
	}
}

// TestUsageIsWhatIsOnDisk compares the sum of du with the files below the root.
func TestUsageIsWhatIsOnDisk(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	dir := b.context(manyFiles)
	compare := func(when string) {
		b.Helper()
		b.settled()
		near(b, when, total(b.du()), onDisk(b, b.daemon.Root))
	}
	b.mustBuild("--tag", "example.test/many", dir)
	compare("after a build")
	b.mustBuild("--no-cache", "--output", "type=oci,dest="+filepath.Join(b.TempDir(), "out.tar"), dir)
	compare("after another")
	b.kiln("prune", "--filter", "type==exec.cachemount")
	compare("without the cache mount")
	b.kiln("prune", "--all")
	compare("after all is pruned")
	b.clean()
}

// TestUsageIsWhatContainerdSays compares the sum of du with the resources of the
// leases in a containerd of its own, and looks at what images share.
func TestUsageIsWhatContainerdSays(t *testing.T) {
	t.Parallel()
	b := onHost(t)
	dir := b.context(manyFiles)
	b.mustBuild("--output", b.TempDir(), dir)
	b.settled()
	near(b, "records", total(b.records()), leased(b))
	if total(b.records()) < 14<<20 {
		b.Errorf("records of %d bytes", total(b.records()))
	}
	b.mustBuild("--tag", "example.test/many", dir)
	b.settled()
	shared := ""
	for _, u := range b.records() {
		if u.Shared && strings.Contains(u.Description, "of=/a") {
			shared = u.ID
		}
	}
	found := false
	for _, pin := range b.du("--why", shared) {
		found = found || pin.RecordType == "image" && pin.ID == "example.test/many:latest"
	}
	if shared == "" || !found {
		b.Errorf("the image is no pin of %q: %+v", shared, b.records())
	}
	b.kiln("prune")
	if all := b.records(); len(all) == 0 || !all[0].Shared {
		b.Errorf("pruning has left %+v, not what the image shares", all)
	}
	b.clean()
	if n := leased(b); n > 0 {
		b.Errorf("%d bytes are still leased", n)
	}
}

// leased is how many bytes the leases of kiln keep, as containerd says.
func leased(b *bed) (bytes int64) {
	b.Helper()
	client, err := containerd.New(b.containerd.Socket)
	b.must(err)
	defer client.Close()
	ctx := namespaces.WithNamespace(b.Context(), "default")
	all, err := client.LeasesService().List(ctx)
	b.must(err)
	seen := map[leases.Resource]bool{}
	var add func(r leases.Resource)
	add = func(r leases.Resource) {
		if seen[r] {
			return
		}
		seen[r] = true
		if r.Type == "content" {
			info, err := client.ContentStore().Info(ctx, digest.Digest(r.ID))
			b.must(err)
			bytes += info.Size
			return
		}
		name, ok := strings.CutPrefix(r.Type, "snapshots/")
		if !ok { // a blob that is being written
			return
		}
		u, err := client.SnapshotService(name).Usage(ctx, r.ID)
		if errdefs.IsNotFound(err) { // a view that was mounted a while ago
			return
		}
		b.must(err)
		bytes += u.Size
		info, err := client.SnapshotService(name).Stat(ctx, r.ID)
		b.must(err)
		if info.Parent != "" {
			add(leases.Resource{ID: info.Parent, Type: r.Type})
		}
		for key, value := range info.Labels {
			if strings.HasPrefix(key, "containerd.io/gc.ref.content") && value != "" {
				add(leases.Resource{ID: value, Type: "content"})
			}
		}
	}
	for _, l := range all {
		resources, err := client.LeasesService().ListResources(ctx, l)
		b.must(err)
		for _, r := range resources {
			add(r)
		}
	}
	return bytes
}

// TestWhy asks what keeps a record that a build uses.
func TestWhy(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	dir := b.context("RUN echo first > /first\nRUN echo started; sleep 20\n")
	build := b.begin(dir)
	var first usage
	for _, u := range b.records() {
		if strings.Contains(u.Description, "echo first") {
			first = u
		}
	}
	if !first.InUse {
		b.Errorf("%+v is not in use", first)
	}
	pins := b.du("--why", first.ID)
	if !slices.ContainsFunc(pins, func(u usage) bool { return u.RecordType == "build" }) {
		b.Errorf("it is kept by %+v", pins)
	}
	if len(first.Parents) != 1 {
		b.Fatalf("parents %v", first.Parents)
	}
	pins = b.du("--why", first.Parents[0])
	if !slices.ContainsFunc(pins, func(u usage) bool { return u.ID == first.ID }) {
		b.Errorf("the parent is kept by %+v", pins)
	}
	if out, err := b.daemon.Client("kiln", "du", "--why", "nonsense").CombinedOutput(); err == nil || !strings.Contains(string(out), "nonsense: not found") {
		b.Errorf("%v: %s", err, out)
	}
	build.kill()
	b.clean()
}
