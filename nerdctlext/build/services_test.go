package build_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/docker/cli/cli/config/types"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/session/auth/authprovider"
	sessioncontent "github.com/moby/buildkit/session/content"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/upload"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/metadata"

	"github.com/kiln-build/kiln/nerdctlext/build"
	"github.com/kiln-build/kiln/nerdctlext/daemontest"
)

// compute has the daemon of a build do nothing but fn.
func compute(daemon *daemontest.Daemon, fn func(context.Context, session.Caller, *gatewaypb.SolveRequest) error) {
	daemon.Compute = func(ctx context.Context, caller session.Caller, request *gatewaypb.SolveRequest) (*gatewaypb.Result, error) {
		return &gatewaypb.Result{}, fn(ctx, caller, request)
	}
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	got := map[string]string{}
	compute(daemon, func(ctx context.Context, caller session.Caller, _ *gatewaypb.SolveRequest) error {
		for _, id := range []string{"file", "env"} {
			value, err := secrets.GetSecret(ctx, caller, id)
			if err != nil {
				return err
			}
			got[id] = string(value)
		}
		if _, err := secrets.GetSecret(ctx, caller, "none"); !errors.Is(err, secrets.ErrNotFound) {
			return fmt.Errorf("a secret without a value: %w", err)
		}
		return nil
	})
	file := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(file, []byte("from file\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, daemon)
	c.Lookup = func(name string) (string, bool) { return "value of " + name, name == "V" }
	r := request()
	r.Secrets = []build.Secret{{ID: "file", File: file}, {ID: "env", Env: "V"}}
	if _, err := c.Build(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if got["file"] != "from file\x00" || got["env"] != "value of V" {
		t.Errorf("got %q", got)
	}
}

func TestSecretThatCannotBeGiven(t *testing.T) {
	t.Parallel()
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, make([]byte, 500*1024+1), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, daemontest.Start(t))
	for _, secret := range []build.Secret{{ID: "a", File: big}, {ID: "b", File: big + ".none"}, {File: big}} {
		r := request()
		r.Secrets = []build.Secret{secret}
		if _, err := c.Build(t.Context(), r); err == nil || !strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v", secret, err)
		}
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	var answer *auth.CredentialsResponse
	compute(daemon, func(ctx context.Context, caller session.Caller, _ *gatewaypb.SolveRequest) (err error) {
		answer, err = auth.NewAuthClient(caller.Conn()).Credentials(ctx, &auth.CredentialsRequest{Host: "r.example.com"})
		return err
	})
	c := newClient(t, daemon)
	c.Credentials = func(_ context.Context, host string, _ []string, _ authprovider.ExpireCachedAuthCheck) (types.AuthConfig, error) {
		return types.AuthConfig{Username: "user at " + host, Password: "pw"}, nil
	}
	if _, err := c.Build(t.Context(), request()); err != nil {
		t.Fatal(err)
	}
	if answer.Username != "user at r.example.com" || answer.Secret != "pw" {
		t.Errorf("answer %v", answer)
	}
	c.Credentials = nil
	if _, err := c.Build(t.Context(), request()); err != nil || answer.Username != "" {
		t.Errorf("without accounts: %v, %v", answer, err)
	}
}

func TestTokensAreShownOnce(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	compute(daemon, func(ctx context.Context, caller session.Caller, _ *gatewaypb.SolveRequest) error {
		for range 2 { // the token server is not there: asking is what counts
			auth.NewAuthClient(caller.Conn()).FetchToken(ctx, &auth.FetchTokenRequest{
				Host: "r", Realm: "http://127.0.0.1:1/", Scopes: []string{"repository:app:pull"},
			})
		}
		return nil
	})
	c := newClient(t, daemon)
	c.Credentials = func(context.Context, string, []string, authprovider.ExpireCachedAuthCheck) (types.AuthConfig, error) {
		return types.AuthConfig{Username: "u", Password: "p"}, nil
	}
	var names []string
	c.Observe = func(status *client.SolveStatus) {
		for _, vertex := range status.Vertexes {
			names = append(names, vertex.Name)
		}
	}
	if _, err := c.Build(t.Context(), request()); err != nil {
		t.Fatal(err)
	}
	if len(names) != 1 || names[0] != "[auth] app:pull token for r" {
		t.Errorf("shown: %q", names)
	}
}

func TestUploads(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	var got bytes.Buffer
	compute(daemon, func(ctx context.Context, caller session.Caller, request *gatewaypb.SolveRequest) error {
		id, ok := strings.CutPrefix(request.FrontendOpt["context"], "http://buildkit-session/")
		if !ok {
			return fmt.Errorf("context is %q", request.FrontendOpt["context"])
		}
		ctx = metadata.AppendToOutgoingContext(ctx, "urlpath", "/"+id, "urlhost", "buildkit-session")
		stream, err := upload.NewUploadClient(caller.Conn()).Pull(ctx)
		if err != nil {
			return err
		}
		for {
			part, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			got.Write(part.Data)
		}
	})
	r := request()
	closed := &closing{Reader: strings.NewReader("archive")}
	r.Uploads = map[string]io.ReadCloser{"context": closed}
	if _, err := newClient(t, daemon).Build(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if got.String() != "archive" || !closed.closed {
		t.Errorf("got %q, closed %t", got.String(), closed.closed)
	}
}

type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error { c.closed = true; return nil }

// writeBlob puts data into a content store of the client.
func writeBlob(ctx context.Context, caller session.Caller, store string, data []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return desc, content.WriteBlob(ctx, sessioncontent.NewCallerStore(caller, store), desc.Digest.String(), bytes.NewReader(data), desc)
}

func TestLayoutOutput(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	daemon.Export = func(ctx context.Context, caller session.Caller, _ *controlapi.SolveRequest) (map[string]string, error) {
		desc, err := writeBlob(ctx, caller, "export", []byte(`{"manifest":1}`))
		if err != nil {
			return nil, err
		}
		encoded, _ := json.Marshal(desc)
		return map[string]string{
			"containerimage.descriptor": base64.StdEncoding.EncodeToString(encoded),
			"image.name":                "docker.io/library/a:v1,docker.io/library/b:latest",
		}, nil
	}
	dir := filepath.Join(t.TempDir(), "layout")
	c := newClient(t, daemon)
	for range 2 { // the second time the entries are replaced
		r := request()
		r.Outputs = []build.Output{{Type: "oci", Attrs: map[string]string{"tar": "false"}, Dir: dir}}
		if _, err := c.Build(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	index := readIndex(t, dir)
	if len(index.Manifests) != 2 {
		t.Fatalf("index %+v", index)
	}
	for i, want := range []struct{ tag, name string }{{"v1", "docker.io/library/a:v1"}, {"latest", "docker.io/library/b:latest"}} {
		got := index.Manifests[i].Annotations
		if got[ocispec.AnnotationRefName] != want.tag || got["io.containerd.image.name"] != want.name {
			t.Errorf("entry %d: %v, want %v", i, got, want)
		}
	}
	var names []string
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if got := strings.Join(names, " "); got != "blobs index.json oci-layout" {
		t.Errorf("the layout has %s", got)
	}
	r := request()
	r.Outputs = []build.Output{{Type: "oci", Dir: dir}, {Type: "docker", Dir: dir + "2"}}
	if _, err := c.Build(t.Context(), r); err == nil {
		t.Error("two outputs in OCI layout were accepted")
	}
}

func readIndex(t *testing.T, dir string) ocispec.Index {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(text, &index); err != nil {
		t.Fatal(err)
	}
	return index
}

func TestLocalCacheGoesOutAndComesIn(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	dir := filepath.Join(t.TempDir(), "cache")
	manifest := []byte(`{"schemaVersion":2,"first":true}`)
	var sent ocispec.Descriptor
	daemon.Export = func(ctx context.Context, caller session.Caller, _ *controlapi.SolveRequest) (_ map[string]string, err error) {
		if sent, err = writeBlob(ctx, caller, "local:"+dir, manifest); err != nil {
			return nil, err
		}
		encoded, _ := json.Marshal(sent)
		return map[string]string{"cache.manifest": string(encoded)}, nil
	}
	c := newClient(t, daemon)
	export := func(attrs map[string]string) {
		t.Helper()
		attrs["dest"] = dir
		r := request()
		r.CacheExports = []build.Cache{{Type: "local", Attrs: attrs}}
		if _, err := c.Build(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	export(map[string]string{})
	first := sent

	daemon.Export = func(ctx context.Context, caller session.Caller, request *controlapi.SolveRequest) (map[string]string, error) {
		if len(request.Cache.Imports) != 1 || request.Cache.Imports[0].Attrs["digest"] != first.Digest.String() {
			return nil, fmt.Errorf("imports %v", request.Cache.Imports)
		}
		got, err := content.ReadBlob(ctx, sessioncontent.NewCallerStore(caller, "local:"+dir), first)
		if err != nil || !bytes.Equal(got, manifest) {
			return nil, fmt.Errorf("read %q: %w", got, err)
		}
		return nil, nil
	}
	r := request()
	given := map[string]string{"src": dir}
	r.CacheImports = []build.Cache{{Type: "local", Attrs: given}}
	if _, err := c.Build(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if len(given) != 1 {
		t.Errorf("building changed the request: %v", given)
	}

	// reset=true leaves only what the index leads to.
	manifest = []byte(`{"schemaVersion":2,"second":true}`)
	daemon.Export = func(ctx context.Context, caller session.Caller, _ *controlapi.SolveRequest) (_ map[string]string, err error) {
		if sent, err = writeBlob(ctx, caller, "local:"+dir, manifest); err != nil {
			return nil, err
		}
		encoded, _ := json.Marshal(sent)
		return map[string]string{"cache.manifest": string(encoded)}, nil
	}
	export(map[string]string{"reset": "true"})
	if _, err := os.Stat(filepath.Join(dir, "blobs", "sha256", first.Digest.Encoded())); !os.IsNotExist(err) {
		t.Errorf("the replaced manifest is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "blobs", "sha256", sent.Digest.Encoded())); err != nil {
		t.Error(err)
	}
}

func TestLocalCacheThatIsNotThereIsAWarning(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	daemon.Export = func(_ context.Context, _ session.Caller, request *controlapi.SolveRequest) (map[string]string, error) {
		if len(request.Cache.Imports) != 0 {
			return nil, fmt.Errorf("imports %v", request.Cache.Imports)
		}
		return nil, nil
	}
	c := newClient(t, daemon)
	var warnings []string
	c.Warn = func(message string) { warnings = append(warnings, message) }
	dir := filepath.Join(t.TempDir(), "none")
	r := request()
	r.CacheImports = []build.Cache{{Type: "local", Attrs: map[string]string{"src": dir}}}
	if _, err := c.Build(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], dir) {
		t.Errorf("warnings %q", warnings)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("an import made its directory")
	}
}

func TestOCILayoutSource(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	dir := t.TempDir()
	blob := []byte("layer")
	id := digest.FromBytes(blob)
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", id.Encoded()), blob, 0o600); err != nil {
		t.Fatal(err)
	}
	compute(daemon, func(ctx context.Context, caller session.Caller, _ *gatewaypb.SolveRequest) error {
		got, err := content.ReadBlob(ctx, sessioncontent.NewCallerStore(caller, "oci:base"), ocispec.Descriptor{Digest: id, Size: int64(len(blob))})
		if err != nil || !bytes.Equal(got, blob) {
			return fmt.Errorf("read %q: %w", got, err)
		}
		if err := sessioncontent.NewCallerStore(caller, "oci:base").Delete(ctx, id); err == nil {
			return errors.New("the daemon could delete a blob of a layout that it was to read")
		}
		if _, err := writeBlob(ctx, caller, "oci:base", []byte("x")); err == nil {
			return errors.New("the daemon could write to a layout that it was to read")
		}
		return nil
	})
	r := request()
	r.Layouts = map[string]string{"base": dir}
	if _, err := newClient(t, daemon).Build(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	r.Layouts["base"] = dir + "/none"
	if _, err := newClient(t, daemon).Build(t.Context(), r); err == nil {
		t.Error("a layout that is not there was accepted")
	}
}
