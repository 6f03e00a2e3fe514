package kit

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// registry is a running registry on loopback.
type registry struct {
	cmd  *exec.Cmd
	base string // its URL
}

// startRegistry starts the program registry on a storage folder.
func startRegistry(ctx context.Context, storage string) (*registry, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	l.Close()
	config := filepath.Join(filepath.Dir(storage), "push.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"+
		"storage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n", storage, address)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	r := &registry{cmd: exec.CommandContext(ctx, "registry", "serve", config), base: "http://" + address}
	r.cmd.Env = append(os.Environ(), RegistryEnv...)
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	for range 200 {
		if _, err = r.do(ctx, http.MethodGet, "/v2/", "", nil); err == nil {
			return r, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	r.stop()
	return nil, fmt.Errorf("the registry does not answer: %w", err)
}

// RegistryEnv keeps the registry from looking for a collector of traces.
var RegistryEnv = []string{"OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=none", "OTEL_LOGS_EXPORTER=none"}

func (r *registry) stop() {
	r.cmd.Process.Signal(syscall.SIGTERM)
	_ = r.cmd.Wait() // it says only that the signal ended it
}

// push puts an image under name:tag, with the layers that it says lie elsewhere:
// the registry takes no manifest of this kind without them.
func (r *registry) push(ctx context.Context, name string, i image) error {
	repo, tag, _ := strings.Cut(name, ":")
	blobs := []blob{i.config}
	for _, l := range i.layers {
		blobs = append(blobs, l.blob)
	}
	for _, b := range blobs {
		upload, err := r.do(ctx, http.MethodPost, "/v2/"+repo+"/blobs/uploads/", "", nil)
		if err != nil {
			return err
		}
		location, err := url.Parse(upload)
		if err != nil {
			return err
		}
		query := location.Query()
		query.Set("digest", b.Digest.String())
		path := location.Path + "?" + query.Encode()
		if _, err := r.do(ctx, http.MethodPut, path, "application/octet-stream", b.content); err != nil {
			return err
		}
	}
	_, err := r.do(ctx, http.MethodPut, "/v2/"+repo+"/manifests/"+tag, i.manifest.MediaType, i.manifest.content)
	return err
}

// do makes a request and returns the answer's location; its body does not
// matter. A status of 300 and above is an error.
func (r *registry) do(ctx context.Context, method, path, contentType string, body []byte) (location string, err error) {
	request, err := http.NewRequestWithContext(ctx, method, r.base+path, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1000))
		return "", fmt.Errorf("%s %s: %s: %s", method, path, response.Status, text)
	}
	return response.Header.Get("Location"), nil
}
