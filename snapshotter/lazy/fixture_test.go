package lazy_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"

	"github.com/kiln-build/kiln/snapshotter/lazy"
	"github.com/kiln-build/kiln/snapshotter/lazy/server"
)

// serveArg makes the test's program the process that serves files.
const serveArg = "serve-lazy-layers"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == serveArg {
		err := server.Run(context.Background(), server.Config{Root: os.Args[2], Hosts: func(json.RawMessage) (docker.RegistryHosts, error) {
			return docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost)), nil
		}})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// start gives a filesystem with a process of its own; nothing of it is left.
func start(t *testing.T, settings lazy.Settings, authorize lazy.Authorize) (*lazy.Filesystem, string) {
	t.Helper()
	root, err := os.MkdirTemp("", "kiln-lazy-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := gone(root); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	return open(t, root, settings, authorize), root
}

func open(t *testing.T, root string, settings lazy.Settings, authorize lazy.Authorize) *lazy.Filesystem {
	t.Helper()
	f, err := lazy.New(t.Context(), lazy.Config{
		Root: filepath.Join(root, "fs"), Command: []string{os.Args[0], serveArg}, Settings: settings, Authorize: authorize,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// gone waits for the process to end and looks for mounts.
func gone(root string) error {
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		if strings.Contains(string(mounts), root) {
			return fmt.Errorf("something is left mounted below %s", root)
		}
		if pid(root) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("process %d is left", pid(root))
		}
	}
}

// pid is the number of the process that serves, 0 for none.
func pid(root string) int {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		line, _ := os.ReadFile(p)
		if strings.Contains(string(line), serveArg) && strings.Contains(string(line), root) {
			var n int
			fmt.Sscanf(p, "/proc/%d/", &n)
			return n
		}
	}
	return 0
}

// shown makes a directory that is unmounted when the test ends.
func shown(t *testing.T, f *lazy.Filesystem, root string) string {
	t.Helper()
	dir, err := os.MkdirTemp(root, "dir-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Unmount(context.Background(), dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// blob is a layer in the registry.
type blob struct {
	data []byte
	toc  digest.Digest
}

func (b blob) digest() digest.Digest { return digest.FromBytes(b.data) }

// files are the test layer's: two small ones and much that nobody reads.
func files() map[string][]byte {
	all := map[string][]byte{"hello": []byte("hello\n"), "dir/other": []byte("other\n")}
	for i := range 40 {
		noise := make([]byte, 256<<10)
		for j := range noise {
			noise[j] = byte((j*j + i*7919 + j>>3) * 2654435761 >> 11)
		}
		all[fmt.Sprintf("big/%d", i)] = noise
	}
	return all
}

func archive(t *testing.T, content map[string][]byte) *io.SectionReader {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, d := range []string{"dir/", "big/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d, Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range content {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		w.Write(data)
	}
	w.Close()
	return io.NewSectionReader(bytes.NewReader(out.Bytes()), 0, int64(out.Len()))
}

type chunked struct {
	*zstdchunked.Compressor
	*zstdchunked.Decompressor
}

func pack(t *testing.T, content map[string][]byte, opts ...estargz.Option) blob {
	t.Helper()
	b, err := estargz.Build(archive(t, content), opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	data, err := io.ReadAll(b)
	if err != nil {
		t.Fatal(err)
	}
	return blob{data, b.TOCDigest()}
}

func zstdChunked() estargz.Option {
	return estargz.WithCompression(chunked{&zstdchunked.Compressor{CompressionLevel: zstd.SpeedFastest}, &zstdchunked.Decompressor{}})
}

// registry serves blobs and counts their bytes.
type registry struct {
	*httptest.Server
	host string
	sent atomic.Int64

	mu    sync.Mutex
	blobs map[string]blob
	// check, where it isn't nil, is asked before.
	check func(w http.ResponseWriter, r *http.Request) bool
}

func startRegistry(t *testing.T, blobs ...blob) *registry {
	t.Helper()
	r := &registry{blobs: map[string]blob{}}
	for _, b := range blobs {
		r.blobs[b.digest().String()] = b
	}
	r.Server = httptest.NewServer(r)
	r.host = strings.TrimPrefix(r.URL, "http://")
	t.Cleanup(r.Close)
	return r
}

func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	check := r.check
	b, ok := r.blobs[req.URL.Path[strings.LastIndex(req.URL.Path, "/")+1:]]
	r.mu.Unlock()
	if check != nil && !check(w, req) {
		return
	}
	if !ok {
		http.NotFound(w, req)
		return
	}
	http.ServeContent(&counting{w, &r.sent}, req, "", time.Time{}, bytes.NewReader(b.data))
}

func (r *registry) setCheck(check func(http.ResponseWriter, *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.check = check
}

func (r *registry) labels(b blob) map[string]string {
	return map[string]string{
		"containerd.io/snapshot/remote/stargz.reference": r.host + "/some/image:1",
		"containerd.io/snapshot/remote/stargz.digest":    b.digest().String(),
		estargz.TOCJSONDigestAnnotation:                  b.toc.String(),
	}
}

type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counting) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n.Add(int64(n))
	return n, err
}

func read(t *testing.T, dir, name, want string) {
	t.Helper()
	if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
		t.Errorf("%s: %q, %v", name, got, err)
	}
}
