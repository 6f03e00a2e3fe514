package registrytest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Login are credentials to push with; the zero value is nobody.
type Login struct{ User, Password string }

// Image is an image to push; the blobs by digest are what the manifest names.
type Image struct {
	Manifest []byte
	Type     string
	Blobs    map[digest.Digest][]byte
	Platform ocispec.Platform
}

// Digest is the manifest's.
func (i Image) Digest() digest.Digest { return digest.FromBytes(i.Manifest) }

// Descriptor is the manifest's, with the platform.
func (i Image) Descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: i.Type, Digest: i.Digest(), Size: int64(len(i.Manifest)), Platform: &i.Platform}
}

// Layer makes a layer of files with contents; names ending in "/" are
// directories.
func Layer(t testing.TB, files map[string]string) (plain, packed []byte) {
	t.Helper()
	var b, z bytes.Buffer
	tw := tar.NewWriter(&b)
	for name, data := range files {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}
		if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	tw.Close()
	zw := gzip.NewWriter(&z)
	if _, err := zw.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	zw.Close()
	return b.Bytes(), z.Bytes()
}

// NewImage makes an image for the platform with one layer for each of the sets
// of files.
func NewImage(t testing.TB, platform ocispec.Platform, layers ...map[string]string) Image {
	t.Helper()
	img := Image{Type: ocispec.MediaTypeImageManifest, Blobs: map[digest.Digest][]byte{}, Platform: platform}
	add := func(mediaType string, b []byte) ocispec.Descriptor {
		d := digest.FromBytes(b)
		img.Blobs[d] = b
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
	}
	cfg := ocispec.Image{Platform: platform, RootFS: ocispec.RootFS{Type: "layers"}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: img.Type, Layers: []ocispec.Descriptor{}}
	for i, files := range layers {
		plain, packed := Layer(t, files)
		m.Layers = append(m.Layers, add(ocispec.MediaTypeImageLayerGzip, packed))
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, digest.FromBytes(plain))
		cfg.History = append(cfg.History, ocispec.History{CreatedBy: fmt.Sprint("layer ", i)})
	}
	m.Config = add(ocispec.MediaTypeImageConfig, encode(t, cfg))
	img.Manifest = encode(t, m)
	return img
}

// NewIndex makes an index of images.
func NewIndex(t testing.TB, images ...Image) Image {
	t.Helper()
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, i := range images {
		index.Manifests = append(index.Manifests, i.Descriptor())
	}
	return Image{Type: index.MediaType, Manifest: encode(t, index)}
}

// Push pushes an image under a tag, or under its digest if the tag is "".
func (s *Server) Push(as Login, repo, tag string, img Image) digest.Digest {
	s.t.Helper()
	for d, b := range img.Blobs {
		s.PushBlob(as, repo, d, b)
	}
	if tag == "" {
		tag = img.Digest().String()
	}
	req := s.request(http.MethodPut, s.URL+"/v2/"+repo+"/manifests/"+tag, img.Manifest)
	req.Header.Set("Content-Type", img.Type)
	s.do(as, req, http.StatusCreated)
	return img.Digest()
}

// PushBlob pushes a blob under its digest.
func (s *Server) PushBlob(as Login, repo string, d digest.Digest, b []byte) {
	s.t.Helper()
	answer := s.do(as, s.request(http.MethodPost, s.URL+"/v2/"+repo+"/blobs/uploads/", nil), http.StatusAccepted)
	u, err := url.Parse(answer.Get("Location"))
	if err != nil {
		s.t.Fatal(err)
	}
	q := u.Query()
	q.Set("digest", d.String())
	u.RawQuery = q.Encode()
	base, _ := url.Parse(s.URL)
	req := s.request(http.MethodPut, base.ResolveReference(u).String(), b)
	req.Header.Set("Content-Type", "application/octet-stream")
	s.do(as, req, http.StatusCreated)
}

func (s *Server) request(method, u string, body []byte) *http.Request {
	s.t.Helper()
	req, err := http.NewRequest(method, u, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	return req
}

// do sends a request, a second time with a token if need be, and gives the
// answer's header.
func (s *Server) do(as Login, req *http.Request, want int) http.Header {
	s.t.Helper()
	if as.User != "" {
		req.SetBasicAuth(as.User, as.Password)
	}
	status, header, text := s.send(req)
	if challenge := header.Get("WWW-Authenticate"); status == http.StatusUnauthorized && strings.HasPrefix(challenge, "Bearer ") {
		req.Header.Set("Authorization", "Bearer "+s.token(as, challenge))
		status, header, text = s.send(req)
	}
	if status != want {
		s.t.Fatalf("%s %s: status %d: %s", req.Method, req.URL, status, text)
	}
	return header
}

func (s *Server) send(req *http.Request) (status int, header http.Header, text []byte) {
	s.t.Helper()
	if body, err := req.GetBody(); err == nil {
		req.Body = body
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err = io.ReadAll(resp.Body); err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, text
}

// token gets the token that a challenge asks for.
func (s *Server) token(as Login, challenge string) string {
	s.t.Helper()
	p := map[string]string{}
	for _, kv := range strings.Split(strings.TrimPrefix(challenge, "Bearer "), `",`) {
		k, v, _ := strings.Cut(kv, "=")
		p[k] = strings.Trim(v, `"`)
	}
	req := s.request(http.MethodGet, p["realm"]+"?"+url.Values{"service": {p["service"]}, "scope": {p["scope"]}}.Encode(), nil)
	req.SetBasicAuth(as.User, as.Password)
	_, _, text := s.send(req)
	var answer struct{ Token string }
	if err := json.Unmarshal(text, &answer); err != nil {
		s.t.Fatal(err)
	}
	return answer.Token
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
