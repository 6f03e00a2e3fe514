package testbed

import (
	"bytes"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

// LazyFormat is a form of layers that can be shown before they are fetched.
type LazyFormat string

// The formats.
const (
	EStargz     LazyFormat = "estargz"
	ZstdChunked LazyFormat = "zstdchunked"
)

// WithNoise puts a layer of n files below /noise on an image: nothing makes them
// smaller, each has size bytes and is called by its number.
func WithNoise(img v1.Image, n, size int) (v1.Image, error) { return WithOtherNoise(img, 1, n, size) }

// WithOtherNoise is WithNoise of which each seed gives other files.
func WithOtherNoise(img v1.Image, seed int64, n, size int) (v1.Image, error) {
	contents := map[string][]byte{}
	random := rand.New(rand.NewSource(seed))
	for i := range n {
		data := make([]byte, size)
		random.Read(data)
		contents[fmt.Sprintf("noise/%d", i)] = data
	}
	data, err := archive(nil, contents)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	return mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: imageTime}, CreatedBy: "noise"}})
}

// Lazy makes an image's layers ones of the format.
func Lazy(img v1.Image, format LazyFormat) (v1.Image, error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.RootFS.DiffIDs = nil
	out := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, l := range layers {
		add, err := lazyLayer(l, format)
		if err != nil {
			return nil, err
		}
		if out, err = mutate.Append(out, add); err != nil {
			return nil, err
		}
		id, err := add.Layer.DiffID()
		if err != nil {
			return nil, err
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, id)
	}
	return mutate.ConfigFile(out, config)
}

type chunked struct {
	*zstdchunked.Compressor
	*zstdchunked.Decompressor
}

func lazyLayer(l v1.Layer, format LazyFormat) (mutate.Addendum, error) {
	rc, err := l.Uncompressed()
	if err != nil {
		return mutate.Addendum{}, err
	}
	defer rc.Close()
	plain, err := io.ReadAll(rc)
	if err != nil {
		return mutate.Addendum{}, err
	}
	kind := types.OCILayer
	var opts []estargz.Option
	if format == ZstdChunked {
		kind = types.OCILayerZStd
		opts = append(opts, estargz.WithCompression(chunked{&zstdchunked.Compressor{CompressionLevel: zstd.SpeedDefault}, &zstdchunked.Decompressor{}}))
	}
	built, err := estargz.Build(io.NewSectionReader(bytes.NewReader(plain), 0, int64(len(plain))), opts...)
	if err != nil {
		return mutate.Addendum{}, err
	}
	defer built.Close()
	blob, err := io.ReadAll(built)
	if err != nil {
		return mutate.Addendum{}, err
	}
	id, err := v1.NewHash(built.DiffID().String())
	if err != nil {
		return mutate.Addendum{}, err
	}
	return mutate.Addendum{
		Layer:     diffID{static.NewLayer(blob, kind), id},
		MediaType: kind,
		Annotations: map[string]string{
			estargz.TOCJSONDigestAnnotation:         built.TOCDigest().String(),
			estargz.StoreUncompressedSizeAnnotation: strconv.Itoa(len(plain)),
		},
	}, nil
}

// diffID is a layer whose uncompressed content has the digest.
type diffID struct {
	v1.Layer
	id v1.Hash
}

func (l diffID) DiffID() (v1.Hash, error) { return l.id, nil }

// Counter is a way to a registry that counts what is fetched.
type Counter struct {
	*httptest.Server
	Host string

	mu             sync.Mutex
	sent           map[string]int64  // by digest
	other          map[string][]byte // what is given for a blob instead of it
	dead           bool
	hang           chan struct{} // nil, or what is closed when the registry goes on
	user, password string        // that have to be given; "" for none
}

// Count starts a way to the registry. The caller closes it.
func (r *Registry) Count() *Counter { return CountTo(r.Host) }

// CountTo starts a way to a registry on this machine (HOST:PORT). The caller
// closes it.
func CountTo(host string) *Counter {
	c := &Counter{sent: map[string]int64{}, other: map[string][]byte{}}
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(&url.URL{Scheme: "http", Host: host})
		p.Out.Host = p.In.Host // so that it sends nobody past us
	}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		c.mu.Lock()
		dead, hang, user, password := c.dead, c.hang, c.user, c.password
		other, replaced := c.other[path.Base(req.URL.Path)]
		c.mu.Unlock()
		if dead {
			panic(http.ErrAbortHandler)
		}
		if hang != nil {
			select {
			case <-hang:
			case <-req.Context().Done():
				return
			}
		}
		if user != "" {
			if u, p, _ := req.BasicAuth(); u != user || p != password {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			req.Header.Del("Authorization")
		}
		if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") {
			w = &countingWriter{w, c, path.Base(req.URL.Path)}
		}
		if replaced {
			http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(other))
			return
		}
		proxy.ServeHTTP(w, req)
	}))
	c.Host = strings.TrimPrefix(c.URL, "http://")
	return c
}

// Fetched is how many bytes of the blobs were sent.
func (c *Counter) Fetched(blobs ...string) (sum int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range blobs {
		sum += c.sent[b]
	}
	return sum
}

// All is how many bytes of any blobs were sent.
func (c *Counter) All() (sum int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.sent {
		sum += n
	}
	return sum
}

// Protect lets only those in who give the password.
func (c *Counter) Protect(user, password string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.user, c.password = user, password
}

// Kill has the registry hang up on everybody, or no more.
func (c *Counter) Kill(dead bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = dead
}

// Hang has the registry take requests and not answer them, or answer all of them.
func (c *Counter) Hang(hang bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hang != nil {
		close(c.hang)
		c.hang = nil
	}
	if hang {
		c.hang = make(chan struct{})
	}
}

// Replace has the registry give other content for a blob, of the same length unless
// clients are to notice at once.
func (c *Counter) Replace(blob string, content []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.other[blob] = content
}

// Close ends it, also if it hangs.
func (c *Counter) Close() {
	c.Hang(false)
	c.Server.Close()
}

type countingWriter struct {
	http.ResponseWriter
	c    *Counter
	blob string
}

func (w *countingWriter) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.c.mu.Lock()
	w.c.sent[w.blob] += int64(n)
	w.c.mu.Unlock()
	return n, err
}

// LayerDigests are the digests of an image's layers, and their bytes in all.
func LayerDigests(img v1.Image) (digests []string, size int64, _ error) {
	m, err := img.Manifest()
	if err != nil {
		return nil, 0, err
	}
	for _, l := range m.Layers {
		digests = append(digests, l.Digest.String())
		size += l.Size
	}
	return digests, size, nil
}
