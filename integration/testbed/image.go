package testbed

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// imageTime is the time of all files and images made here, so that the same
// busybox gives the same digests every time.
var imageTime = time.Unix(1700000000, 0).UTC()

// Busybox makes an image of the static busybox of this machine, with a link for
// each of its commands, a shell as its command and users root and nobody.
func Busybox() (v1.Image, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, err
	}
	files := []tar.Header{
		{Name: "bin/", Mode: 0o755}, {Name: "dev/", Mode: 0o755}, {Name: "etc/", Mode: 0o755}, {Name: "proc/", Mode: 0o755},
		{Name: "root/", Mode: 0o700}, {Name: "sys/", Mode: 0o755}, {Name: "tmp/", Mode: 0o1777},
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" {
			files = append(files, tar.Header{Name: "bin/" + applet, Mode: 0o755, Typeflag: tar.TypeSymlink, Linkname: "busybox"})
		}
	}
	return image(files, map[string][]byte{
		"bin/busybox": program,
		"etc/passwd":  []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
		"etc/group":   []byte("root:x:0:\nnobody:x:65534:\n"),
	})
}

// image makes an image of one layer for this machine's platform. Contents are
// executable files, in alphabetical order after the headers that have none.
func image(headers []tar.Header, contents map[string][]byte) (v1.Image, error) {
	archive, err := archive(headers, contents)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(base, mutate.Addendum{Layer: layer, History: v1.History{
		Created: v1.Time{Time: imageTime}, CreatedBy: "testbed",
	}})
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", runtime.GOARCH, v1.Time{Time: imageTime}
	config.Config.Env = []string{"PATH=/bin"}
	config.Config.Cmd = []string{"sh"}
	return mutate.ConfigFile(img, config)
}

// Index makes an index of an image for this machine's platform and one that
// calls the same content another architecture's.
func Index(img v1.Image, arch string) (v1.ImageIndex, error) {
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.Architecture = arch
	other, err := mutate.ConfigFile(img, config)
	if err != nil {
		return nil, err
	}
	entry := func(i v1.Image, arch string) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: i, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}}
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	return mutate.AppendManifests(index, entry(img, runtime.GOARCH), entry(other, arch)), nil
}
