package snapshotter

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/kiln-build/kiln/integration/testbed"
)

// TestTampered: a registry that gives other content than the image's is found out, by
// the layer's digest or by that of its table of contents.
func TestTampered(t *testing.T) {
	t.Parallel()
	for _, format := range []testbed.LazyFormat{testbed.EStargz, testbed.ZstdChunked} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			b := startLazy(t, format)
			noise := b.digests[1]
			// One changed byte in a file: that one can't be read, the others can.
			data := bytes.Clone(b.blob(t, 1))
			data[len(data)/2] ^= 1
			b.Replace(noise, data)
			text := "FROM " + b.ref() + "\nRUN bad=0; for i in $(seq 0 39); do cat /noise/$i > /copy || bad=$((bad+1)); done; echo bad $bad; [ $bad = 0 ]\n"
			_, err := b.try(b.building(text))
			if err == nil || !strings.Contains(err.Error(), " bad 1\n") {
				t.Errorf("build on a changed file: %v", err)
			}
			b.ctr("images", "pull", "--plain-http", b.ref())
			if out, err := b.try(b.running(b.ref(), "sh", "-c", "cat /noise/* > /dev/null")); err == nil {
				t.Errorf("changed content was read: %v", out)
			}
			// What was wrong is fetched again, a while later.
			b.Replace(noise, b.blob(t, 1))
			b.must(testbed.Eventually(time.Minute, func() error {
				return second(b.try(b.running(b.ref(), "sh", "-c", "cat /noise/* > /dev/null")))
			}))
			if out := b.build(text); !strings.Contains(out, " bad 0\n") {
				t.Errorf("the build says\n%s", out)
			}
			b.notDownloaded()
			// A layer of another image, which is sound in itself.
			victim := pushLazy(t, registry, format)
			victim.Replace(victim.digests[1], b.blob(t, 1))
			_, err = b.try(b.building("FROM " + victim.ref() + "\nRUN true\n"))
			if err == nil || !strings.Contains(err.Error(), victim.digests[1]) {
				t.Errorf("build on another layer: %v", err)
			} else {
				t.Logf("build: %s", last(err.Error()))
			}
			if _, err := b.try(b.onKiln(b.containerd.Ctr("images", "pull", "--plain-http", victim.ref()))); err == nil {
				t.Error("another layer was pulled")
			} else {
				t.Logf("pull: %s", last(err.Error()))
			}
			b.kiln("prune", "--all") // what failed has left the manifests that it looked at
			b.empty()
		})
	}
}

// blob is what the registry has for layer i.
func (i *lazyImage) blob(t *testing.T, layer int) []byte {
	t.Helper()
	img, err := registry.Image(i.repo + ":1")
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	rc, err := layers[layer].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	data, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func second(_ ran, err error) error { return err }

// last is the last line of a text.
func last(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
