package export

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kiln-build/kiln/builder/layer"
)

// newDistribution runs the distribution project's registry, which can mount
// blobs of one repository into another.
func newDistribution(t *testing.T) *testRegistry {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "config.yml"), fmt.Sprintf(
		"version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n", dir, addr))
	var out bytes.Buffer
	cmd := exec.Command(tool(t, "registry"), "serve", filepath.Join(dir, "config.yml"))
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=none", "OTEL_LOGS_EXPORTER=none")
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if resp, err := http.Get("http://" + addr + "/v2/"); err == nil {
			resp.Body.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the registry doesn't answer: %s", out.String())
		}
	}
	r := &testRegistry{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr})
	srv := httptest.NewServer(r.before(proxy))
	t.Cleanup(srv.Close)
	r.host = strings.TrimPrefix(srv.URL, "http://")
	return r
}

// tool finds a program in the PATH or among the module's tools.
func tool(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	path, err := filepath.Abs(filepath.Join("../../bin/tools", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the program %s is needed, which `make tools` builds: %v", name, err)
	}
	return path
}

// A blob that one repository of a registry has isn't sent to another one.
func TestPushMountsBlobs(t *testing.T) {
	t.Parallel()
	e, r := newEnv(t), newDistribution(t)
	base := e.layer(t, nil, map[string]string{"big": strings.Repeat("base", 1<<18)})
	push := func(repo string, l *layer.Layer) {
		e.mustExport(t, Target{Type: "image", Attrs: map[string]string{"name": r.host + "/" + repo, "push": "true"}}, single(l))
		r.pull(t, repo)
	}
	push("team/base:1", base)
	r.take()
	push("team/app:1", e.layer(t, base, map[string]string{"app": "1"}))
	sent := 0
	for _, req := range r.take() {
		if strings.HasPrefix(req, "PUT /v2/team/app/blobs/") {
			sent++
		}
	}
	if sent != 2 { // config and upper layer
		t.Errorf("%d blobs were sent, want 2", sent)
	}
}

// The layers of a base image that aren't here aren't needed to push what the
// registry has already; but they are to store the image or send it away.
func TestAbsentLayers(t *testing.T) {
	t.Parallel()
	e, r := newEnv(t), newDistribution(t)
	out := e.mustExport(t, Target{Type: "registry", Attrs: map[string]string{"name": r.host + "/base"}},
		single(e.layer(t, nil, map[string]string{"a": "1"})))
	var m ocispec.Manifest
	e.read(t, *out.Descriptor, &m)
	diffIDs, err := (&images.Image{Target: *out.Descriptor}).RootFS(e.ctx, e.st.Content, nil)
	if err != nil {
		t.Fatal(err)
	}
	base, err := e.layers.Unpack(e.ctx, layer.Image{Layers: m.Layers, DiffIDs: diffIDs}, e.job.Progress)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.st.Content.Delete(e.ctx, m.Layers[0].Digest); err != nil {
		t.Fatal(err)
	}
	top := e.layer(t, base, map[string]string{"b": "2"})
	e.mustExport(t, Target{Type: "registry", Attrs: map[string]string{"name": r.host + "/base:new", "store": "false"}}, single(top))
	r.pull(t, "base:new")
	id, _ := e.fileClient(t)
	for _, typ := range []string{"image", "oci", "docker"} {
		_, err := e.export(t, Target{Type: typ, Session: id, Attrs: parse("name=x")}, single(top))
		if err == nil || !strings.Contains(err.Error(), "pulled without its layers") || !strings.Contains(err.Error(), m.Layers[0].Digest.String()) {
			t.Errorf("%s: %v", typ, err)
		}
	}
	e.mustExport(t, Target{Type: "image", Attrs: parse("name=x,unsafe-internal-store-allow-incomplete=true")}, single(top))
	_, err = e.export(t, Target{Type: "registry", Attrs: map[string]string{"name": r.host + "/other", "store": "false"}}, single(top))
	if err == nil || !strings.Contains(err.Error(), "the registry doesn't have it") {
		t.Error(err)
	}
}
