package export

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	bkauth "github.com/moby/buildkit/session/auth"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
)

// testRegistry is a registry whose answers a test can spoil.
type testRegistry struct {
	host string
	mu   sync.Mutex
	// spoil, where it returns true, has answered the request.
	spoil func(http.ResponseWriter, *http.Request) bool
	seen  []string
}

func newRegistry(t *testing.T) *testRegistry {
	t.Helper()
	r := &testRegistry{}
	next := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(r.before(next))
	t.Cleanup(srv.Close)
	r.host = strings.TrimPrefix(srv.URL, "http://")
	return r
}

// before stands between a client and the registry.
func (r *testRegistry) before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.seen = append(r.seen, req.Method+" "+req.URL.Path)
		spoilt := r.spoil != nil && r.spoil(w, req)
		r.mu.Unlock()
		if !spoilt {
			next.ServeHTTP(w, req)
		}
	})
}

// take gives the requests since the last call.
func (r *testRegistry) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := r.seen
	r.seen = nil
	return seen
}

// pull reads and checks the image completely.
func (r *testRegistry) pull(t *testing.T, ref string) v1.Image {
	t.Helper()
	parsed, err := name.ParseReference(r.host + "/" + ref)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(parsed)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Fatal(err)
	}
	return img
}

func TestPush(t *testing.T) {
	t.Parallel()
	e, r := newEnv(t), newRegistry(t)
	top := e.layer(t, e.layer(t, nil, map[string]string{"a": "1"}), map[string]string{"b": "2"})
	out := e.mustExport(t, Target{Type: "image", Attrs: map[string]string{
		"name": r.host + "/a/b:tag," + r.host + "/c", "push": "true", "dangling-name-prefix": "<none>",
	}}, single(top))
	for _, ref := range []string{"a/b:tag", "c:latest", "c@" + out.Response["containerimage.digest"]} {
		d, err := r.pull(t, ref).Digest()
		if err != nil || d.String() != out.Response["containerimage.digest"] {
			t.Errorf("%s is %v, %v", ref, d, err)
		}
	}
	e.events.check(t, "pushing layers", "pushing manifest for "+r.host+"/a/b:tag@sha256:")
	// Where it went is remembered, for a later push to mount from.
	for _, p := range out.layers(t, e) {
		info, err := e.st.Content.Info(e.ctx, p)
		host, _, _ := strings.Cut(r.host, ":")
		if err != nil || info.Labels["containerd.io/distribution.source."+host] != "a/b,c" {
			t.Errorf("labels %v, %v", info.Labels, err)
		}
	}
}

func TestPushIndexWithoutStore(t *testing.T) {
	t.Parallel()
	e, r := newEnv(t), newRegistry(t)
	shared := e.layer(t, nil, map[string]string{"a": "both"})
	res := multi(shared, e.layer(t, shared, map[string]string{"b": "arm64"}))
	e.mustExport(t, Target{Type: "registry", Attrs: map[string]string{"name": r.host + "/x:1", "store": "false"}}, res)
	ref, _ := name.ParseReference(r.host + "/x:1")
	index, err := remote.Index(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Fatal(err)
	}
	if all, _ := e.st.Images.List(e.ctx); len(all) != 0 {
		t.Errorf("stored: %v", all)
	}
}

func TestPushByDigest(t *testing.T) {
	t.Parallel()
	e, r := newEnv(t), newRegistry(t)
	l := e.layer(t, nil, map[string]string{"a": "1"})
	attrs := map[string]string{"name": r.host + "/x", "push": "true", "push-by-digest": "true", "oci-mediatypes": "false"}
	out := e.mustExport(t, Target{Type: "image", Attrs: attrs}, single(l))
	r.pull(t, "x@"+out.Response["containerimage.digest"])
	ref, _ := name.ParseReference(r.host + "/x:latest")
	if _, err := remote.Head(ref); err == nil {
		t.Error("it was tagged")
	}
	attrs["name"] += ":tag"
	if _, err := e.export(t, Target{Type: "image", Attrs: attrs}, single(l)); err == nil || !strings.Contains(err.Error(), "can't push tagged ref") {
		t.Error(err)
	}
}

// A registry may be busy for a while, and lose connections.
func TestPushAgain(t *testing.T) {
	t.Parallel()
	e, r := newEnv(t), newRegistry(t)
	failed := map[string]int{}
	r.spoil = func(w http.ResponseWriter, req *http.Request) bool {
		kind := req.Method + " " + strings.Split(req.URL.Path+"////", "/")[3]
		if req.Method == http.MethodGet || req.Method == http.MethodHead || failed[kind] == 4 {
			return false
		}
		failed[kind]++
		if failed[kind] < 4 {
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return true
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return true
		}
		conn.Close()
		return true
	}
	top := e.layer(t, e.layer(t, nil, map[string]string{"a": strings.Repeat("1", 1<<20)}), map[string]string{"b": "2"})
	e.mustExport(t, Target{Type: "image", Attrs: map[string]string{"name": r.host + "/x", "push": "true"}}, single(top))
	r.pull(t, "x")
	if want := map[string]int{"POST blobs": 4, "PUT blobs": 4, "PUT manifests": 4}; !maps.Equal(failed, want) {
		t.Errorf("failed %v, want %v", failed, want)
	}
	if log := e.events.logs.String(); !strings.Contains(log, "503") || !strings.Contains(log, "retrying in") {
		t.Errorf("log %q", log)
	}
	e.events.check(t)
}

func TestPushRefused(t *testing.T) {
	t.Parallel()
	e, r := newEnv(t), newRegistry(t)
	r.spoil = func(w http.ResponseWriter, req *http.Request) bool {
		if req.Method != http.MethodPut {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"errors":[{"code":"DENIED","message":"the quota is used up"}]}`)
		return true
	}
	ref := r.host + "/x:1"
	_, err := e.export(t, Target{Type: "image", Attrs: map[string]string{"name": ref, "push": "true"}},
		single(e.layer(t, nil, map[string]string{"a": "1"})))
	if err == nil || !strings.HasPrefix(err.Error(), "failed to push "+ref) || !strings.Contains(err.Error(), "403") ||
		!strings.Contains(err.Error(), "the quota is used up") {
		t.Error(err)
	}
	e.events.check(t)
}

func TestPushNowhere(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.mustExport(t, Target{Type: "registry"}, single(nil))
	if !strings.Contains(e.events.logs.String(), "nothing is pushed") {
		t.Error("nobody was told")
	}
	srv := httptest.NewServer(nil)
	host := strings.TrimPrefix(srv.URL, "http://")
	srv.Close()
	_, err := e.export(t, Target{Type: "image", Attrs: map[string]string{"name": host + "/x", "push": "true"}}, single(nil))
	if err == nil || !strings.HasPrefix(err.Error(), "failed to push "+host+"/x") {
		t.Error(err)
	}
}

// A certificate that nobody vouches for is accepted only if asked for.
func TestPushInsecure(t *testing.T) {
	t.Parallel()
	e, r := newEnv(t), &testRegistry{}
	srv := httptest.NewUnstartedServer(r.before(registry.New(registry.Logger(log.New(io.Discard, "", 0)))))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	l := e.layer(t, nil, map[string]string{"a": "1"})
	attrs := map[string]string{"name": strings.TrimPrefix(srv.URL, "https://") + "/x", "push": "true"}
	if _, err := e.export(t, Target{Type: "image", Attrs: attrs}, single(l)); err == nil {
		t.Error("no error")
	}
	attrs["registry.insecure"] = "true"
	e.mustExport(t, Target{Type: "image", Attrs: attrs}, single(l))
	plain := newRegistry(t)
	attrs["name"] = plain.host + "/x"
	e.mustExport(t, Target{Type: "image", Attrs: attrs}, single(l))
	plain.pull(t, "x")
}

// The push ends soon after its context.
func TestPushCancelled(t *testing.T) {
	t.Parallel()
	e, r := newEnv(t), newRegistry(t)
	ctx, cancel := context.WithCancel(context.Background())
	r.spoil = func(w http.ResponseWriter, req *http.Request) bool {
		cancel()
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return true
	}
	e.retry = retry{first: 1 << 40, tries: 5}
	x, err := e.Resolve(e.ctx, Target{Type: "image", Attrs: map[string]string{"name": r.host + "/x", "push": "true"}})
	if err != nil {
		t.Fatal(err)
	}
	out, err := x.Export(e.ctx, e.job, single(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Release()
	if err := out.Finalize(ctx); err == nil {
		t.Error("no error")
	}
}

// The client's credentials are asked for by the registry that wants them.
func TestPushWithCredentials(t *testing.T) {
	t.Parallel()
	e, r := newEnv(t), newRegistry(t)
	r.spoil = func(w http.ResponseWriter, req *http.Request) bool {
		user, secret, _ := req.BasicAuth()
		if user == "somebody" && secret == "knows" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	target := Target{Type: "image", Attrs: map[string]string{"name": r.host + "/x", "push": "true"}}
	l := e.layer(t, nil, map[string]string{"a": "1"})
	if _, err := e.export(t, target, single(l)); err == nil {
		t.Error("pushed without credentials")
	}
	e.client(t, login{host: r.host})
	e.mustExport(t, target, single(l))
}

type login struct {
	bkauth.UnimplementedAuthServer
	host string
}

func (l login) Register(s *grpc.Server) { bkauth.RegisterAuthServer(s, l) }

func (l login) Credentials(_ context.Context, req *bkauth.CredentialsRequest) (*bkauth.CredentialsResponse, error) {
	if req.Host != l.host {
		return &bkauth.CredentialsResponse{}, nil
	}
	return &bkauth.CredentialsResponse{Username: "somebody", Secret: "knows"}, nil
}

// layers are the digests of an exported single image's layers.
func (o Outcome) layers(t *testing.T, e *env) []digest.Digest {
	t.Helper()
	data, err := content.ReadBlob(e.ctx, e.st.Content, *o.Descriptor)
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	var all []digest.Digest
	for _, l := range m.Layers {
		all = append(all, l.Digest)
	}
	return all
}
