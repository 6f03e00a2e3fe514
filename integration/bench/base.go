package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/kiln-build/kiln/integration/testbed"
)

// base is what all cases stand on: a registry with two images, and a large
// build context. BASE has a static busybox at /bin; DATA has that and dataSize
// bytes at /data.
type base struct {
	dir      string
	dataSize int64
	registry *server
	host     string // the registry's host:port
	// counted is another way to the registry, which counts what is fetched.
	counted *testbed.Counter
	// lazy pushes an image like DATA whose layers can be pulled lazily, once.
	lazy func(context.Context, *daemon) error
	// files makes the large context once and returns its folder. Builds may
	// only read it; a case that changes a file changes it for all.
	files func() (string, error)
}

const contextFiles = 20000

// newBase starts the registry. The images are not there yet, see push.
func newBase(ctx context.Context, dir string, dataSize int64) (*base, error) {
	b := &base{dir: dir, dataSize: dataSize}
	b.files = sync.OnceValues(func() (string, error) {
		tree := filepath.Join(dir, "context")
		return tree, writeTree(tree, contextFiles)
	})
	if err := b.startRegistry(ctx); err != nil {
		return nil, err
	}
	b.counted = testbed.CountTo(b.host)
	done := false
	b.lazy = func(ctx context.Context, d *daemon) error {
		if done {
			return nil
		}
		done = true
		return b.pushImage(ctx, d, "lazy", dataImage, "compression=estargz", "force-compression=true", "oci-mediatypes=true")
	}
	return b, nil
}

func (b *base) startRegistry(ctx context.Context) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	b.host = fmt.Sprintf("127.0.0.1:%d", port)
	config := filepath.Join(b.dir, "registry.yml")
	text := fmt.Sprintf(`version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}}
http: {addr: %q}
`, filepath.Join(b.dir, "registry"), b.host)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	cmd := exec.Command("registry", "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=none", "OTEL_LOGS_EXPORTER=none")
	if b.registry, err = serve(cmd); err != nil {
		return err
	}
	return b.registry.wait(ctx, func() error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.host+"/v2/", nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		return response.Body.Close()
	})
}

// push has the daemon build the two images and push them.
func (b *base) push(ctx context.Context, d *daemon) error {
	for name, dockerfile := range map[string]string{"base": baseImage, "data": dataImage} {
		if err := b.pushImage(ctx, d, name, dockerfile); err != nil {
			return err
		}
	}
	return nil
}

const (
	baseImage = "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n"
	dataImage = baseImage + "COPY data /data\n"
)

// pushImage has the daemon build an image and push it, with attributes of the
// output.
func (b *base) pushImage(ctx context.Context, d *daemon, name, dockerfile string, attrs ...string) error {
	w, err := newWork(b, d)
	if err != nil {
		return err
	}
	defer w.remove()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	if err := copyFile(filepath.Join(w.context, "busybox"), busybox, 0o755); err != nil {
		return err
	}
	if err := writeData(filepath.Join(w.context, "data"), b.dataSize); err != nil {
		return err
	}
	output := append([]string{fmt.Sprintf("type=image,name=%s/%s:latest,push=true", b.host, name)}, attrs...)
	if err := w.build(ctx, dockerfile, "--output", strings.Join(output, ",")); err != nil {
		return fmt.Errorf("base image %s: %w", name, err)
	}
	return nil
}

// freePort returns a loopback port that was free a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
