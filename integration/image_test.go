package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/kiln-build/kiln/integration/testbed"
)

// epoch makes a build the same every time, whoever asks for it and wherever it runs.
const epoch = "SOURCE_DATE_EPOCH=1700000000"

const reproducible = `
-- Dockerfile --
FROM BASE
COPY words /words
RUN sort /words > /sorted && mkdir /empty && ln -s sorted /link
ENV A=b
CMD ["cat", "/sorted"]
-- words --
pear
apple
`

// TestSameDigest builds one Dockerfile by all clients on both backends.
func TestSameDigest(t *testing.T) {
	t.Parallel()
	var digests []string
	for _, start := range []func(*testing.T) *bed{embedded, onHost} {
		b := start(t)
		dir := b.files(reproducible)
		builder := b.buildx()
		for _, client := range []struct {
			name string
			cmd  func(metadata string) *exec.Cmd
		}{
			{"kiln", func(metadata string) *exec.Cmd {
				return b.daemon.Client("kiln", "build", "--rewrite-timestamp", "--metadata-file", metadata, dir)
			}},
			{"buildctl", func(metadata string) *exec.Cmd {
				return b.daemon.Client("buildctl", "build", "--frontend=dockerfile.v0", "--local=context="+dir, "--local=dockerfile="+dir,
					"--opt=build-arg:"+epoch, "--output=type=image,rewrite-timestamp=true", "--metadata-file="+metadata)
			}},
			{"buildx", func(metadata string) *exec.Cmd {
				return builder("build", "--output=type=image,rewrite-timestamp=true", "--metadata-file="+metadata, dir)
			}},
		} {
			metadata := filepath.Join(t.TempDir(), "metadata.json")
			cmd := client.cmd(metadata)
			cmd.Env = append(cmd.Environ(), epoch)
			b.run(cmd)
			digest := imageDigest(t, metadata)
			t.Logf("%s: %s", client.name, digest)
			digests = append(digests, digest)
		}
	}
	if len(slices.Compact(digests)) != 1 {
		t.Errorf("digests are %v", digests)
	}
}

// buildx sets a builder up for the daemon and returns what makes commands for it.
func (b *bed) buildx() func(args ...string) *exec.Cmd {
	b.Helper()
	config := testbed.Dir(b.T)
	command := func(args ...string) *exec.Cmd {
		cmd := exec.Command("buildx", args...)
		cmd.Env = append(os.Environ(), "BUILDX_CONFIG="+config, "BUILDX_BUILDER=kiln", "BUILDX_NO_DEFAULT_ATTESTATIONS=1")
		return cmd
	}
	b.run(command("create", "--name", "kiln", "--driver", "remote", b.daemon.Addr))
	return command
}

// imageDigest reads a metadata file.
func imageDigest(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var metadata struct {
		Digest string `json:"containerimage.digest"`
	}
	if err := json.Unmarshal(text, &metadata); err != nil || metadata.Digest == "" {
		t.Fatalf("%v: no digest in %s", err, text)
	}
	return metadata.Digest
}

// TestRunAtOnce: what was built in a containerd can be run there as it lies.
func TestRunAtOnce(t *testing.T) {
	t.Parallel()
	b := onHost(t)
	out := b.build("--tag", "example.test/sorted", "--tag", "example.test/sorted:second", b.files(reproducible))
	for _, name := range []string{"example.test/sorted:latest", "example.test/sorted:second"} {
		ran := b.run(b.containerd.Run(name))
		if ran.stdout != "apple\npear\n" {
			t.Errorf("%s says %q", name, ran.stdout)
		}
	}
	if images := b.run(b.containerd.Ctr("images", "ls")).stdout; !strings.Contains(images, strings.TrimSpace(out.stdout)) {
		t.Errorf("the digest that was printed, %q, is not among the images\n%s", out.stdout, images)
	}
	b.run(b.containerd.Ctr("images", "rm", "--sync", "example.test/sorted:latest", "example.test/sorted:second"))
	b.idle()
	if left := b.run(b.containerd.Ctr("snapshots", "ls")).stdout; strings.Count(left, "\n") > 1 {
		t.Errorf("without images and cache there are snapshots:\n%s", left)
	}
}

// TestBuiltBase: an image that was built before is built on without a registry, until
// it is removed.
func TestBuiltBase(t *testing.T) {
	t.Parallel()
	onBoth(t, func(b *bed) {
		b.build("--tag", "example.test/only/here", b.files(reproducible))
		dir := b.files(`
-- Dockerfile --
FROM example.test/only/here AS base
FROM scratch
COPY --from=base /sorted /
`)
		out := b.TempDir()
		b.build("--pull=never", "--output", out, dir)
		if got := b.tree(out)["sorted"]; got != "apple\npear\n" {
			b.Errorf("got %q", got)
		}
		b.kiln("rmi", "example.test/only/here")
		failed := try(b.daemon.Client("kiln", "build", "--pull=never", "--output", out, dir))
		if failed.err == nil || !strings.Contains(failed.stderr, "example.test/only/here") {
			b.Errorf("with a base that was removed: %v %s", failed.err, failed.stderr)
		}
	})
}

// TestImages lists and removes what was built.
func TestImages(t *testing.T) {
	t.Parallel()
	onBoth(t, func(b *bed) {
		out := b.build("--tag", "example.test/sorted", "--tag", "sorted:second", b.files(reproducible))
		digest := strings.TrimPrefix(strings.TrimSpace(out.stdout), "sha256:")
		list := b.kiln("images").stdout
		lines := strings.Split(list, "\n")
		if len(lines) != 4 || !strings.HasPrefix(lines[1], "docker.io/library/sorted:second\t") && !strings.HasPrefix(lines[1], "docker.io/library/sorted:second ") ||
			strings.Count(list, digest[:12]) != 2 || strings.Contains(list, "incomplete") {
			b.Errorf("images are\n%s", list)
		}
		if one := b.kiln("images", "-q", "sorted:second").stdout; one != "docker.io/library/sorted:second\n" {
			b.Errorf("the one is %q", one)
		}
		b.kiln("prune", "--all")
		if du := b.kiln("du").stdout; b.containerd == nil && !strings.Contains(du, "\nimage ") {
			b.Errorf("what an image takes is not in\n%s", du)
		}
		b.kiln("rmi", "example.test/sorted", "sorted:second")
		if left := b.kiln("images", "-q").stdout; left != "" {
			b.Errorf("left are\n%s", left)
		}
		missing := try(b.daemon.Client("kiln", "rmi", "sorted:second"))
		if missing.err == nil || !strings.Contains(missing.stderr, "remove image sorted:second: there is no such image") {
			b.Errorf("removing it again: %v %s", missing.err, missing.stderr)
		}
		b.idle()
	})
}

// TestArchives puts what the archive outputs write into a containerd and runs it.
func TestArchives(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	c := testbed.StartContainerd(t)
	dir := b.files(reproducible)
	for _, kind := range []string{"oci", "docker"} {
		t.Run(kind, func(t *testing.T) {
			b := b.with(t)
			archive := filepath.Join(t.TempDir(), "image.tar")
			name := "example.test/" + kind + ":1"
			b.build("--tag", name, "--output", "type="+kind+",dest="+archive, dir)
			b.run(c.Ctr("images", "import", archive))
			if out := b.run(c.Run(name)); out.stdout != "apple\npear\n" {
				t.Errorf("it says %q", out.stdout)
			}
		})
	}
}

// TestFiles writes the result as files, by each way there is.
func TestFiles(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	dir := b.files(`
-- Dockerfile --
FROM scratch
COPY . /
-- .dockerignore --
Dockerfile
.dockerignore
-- a/b/c --
one
-- d --
two
`)
	want := []string{"a/b/c", "d"}
	t.Run("tar on standard output", func(t *testing.T) {
		out := b.with(t).build("--output", "-", dir)
		list := exec.Command("tar", "-t")
		list.Stdin = strings.NewReader(out.stdout)
		got := strings.Fields(b.with(t).run(list).stdout)
		got = slices.DeleteFunc(got, func(name string) bool { return strings.HasSuffix(name, "/") })
		if !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
	})
	t.Run("two outputs", func(t *testing.T) {
		b := b.with(t)
		first, second := t.TempDir(), filepath.Join(t.TempDir(), "new", "folder")
		b.build("--output", first, "--output", "type=local,dest="+second, dir)
		for _, dir := range []string{first, second} {
			if got := b.tree(dir); got["a/b/c"] != "one\n" || got["d"] != "two\n" || len(got) != 2 {
				t.Errorf("got %q", got)
			}
		}
	})
	t.Run("layout", func(t *testing.T) {
		b := b.with(t)
		dest := t.TempDir()
		b.build("--output", "type=oci,tar=false,dest="+dest, dir)
		index, err := layout.ImageIndexFromPath(dest)
		b.must(err)
		manifest, err := index.IndexManifest()
		b.must(err)
		if len(manifest.Manifests) != 1 {
			t.Errorf("%d manifests", len(manifest.Manifests))
		}
	})
}

// TestPlatforms makes an index of two platforms and pushes it; of the other
// platform nothing can run here.
func TestPlatforms(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	name := "platforms:" + strings.ToLower(t.Name())
	b.build("--platform", "linux/"+otherArch+",linux/amd64", "--push", "--tag", registry.Host+"/"+name, b.files(`
-- Dockerfile --
FROM --platform=$BUILDPLATFORM BASE AS made
ARG TARGETARCH
RUN echo "for $TARGETARCH" > /out
FROM MULTI
COPY --from=made /out /
`))
	index, err := registry.Index(name)
	b.must(err)
	manifest, err := index.IndexManifest()
	b.must(err)
	var got []string
	for _, m := range manifest.Manifests {
		img, err := index.Image(m.Digest)
		b.must(err)
		config, err := img.ConfigFile()
		b.must(err)
		got = append(got, m.Platform.String()+" "+config.Architecture)
	}
	if want := []string{"linux/" + otherArch + " " + otherArch, "linux/amd64 amd64"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestConfig looks at the configuration of an image that was pushed.
func TestConfig(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	iid := filepath.Join(t.TempDir(), "iid")
	out := b.build("--push", "--tag", registry.Host+"/config", "--label", "a=b", "--annotation", "c=d", "--iidfile", iid, b.files(`
-- Dockerfile --
FROM BASE
LABEL from=file
EXPOSE 80
WORKDIR /work
USER nobody
ENTRYPOINT ["echo"]
`))
	img, err := registry.Image("config:latest")
	b.must(err)
	config, err := img.ConfigFile()
	b.must(err)
	c := config.Config
	if c.Labels["a"] != "b" || c.Labels["from"] != "file" || c.WorkingDir != "/work" || c.User != "nobody" ||
		!slices.Equal(c.Entrypoint, []string{"echo"}) || c.Cmd != nil || len(c.ExposedPorts) != 1 {
		t.Errorf("configuration is %+v", c)
	}
	manifest, err := img.Manifest()
	b.must(err)
	if manifest.Annotations["c"] != "d" {
		t.Errorf("annotations are %v", manifest.Annotations)
	}
	digest, err := img.Digest()
	b.must(err)
	written, err := os.ReadFile(iid)
	b.must(err)
	if string(written) != digest.String() || strings.TrimSpace(out.stdout) != digest.String() {
		t.Errorf("pushed is %s, in the file is %q, printed was %q", digest, written, out.stdout)
	}
}

// TestLayoutAsContext builds on an image in a folder.
func TestLayoutAsContext(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	img, err := registry.Image("busybox:latest")
	b.must(err)
	store := t.TempDir()
	path, err := layout.Write(store, empty.Index)
	b.must(err)
	b.must(path.AppendImage(img))
	out := t.TempDir()
	b.build("--build-context", "base=oci-layout://"+store, "--output", out, b.files(`
-- Dockerfile --
FROM base AS made
RUN echo on a layout > /out
FROM scratch
COPY --from=made /out /
`))
	if got := b.tree(out)["out"]; got != "on a layout\n" {
		t.Errorf("got %q", got)
	}
}
