package testbed

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Registry is a registry on loopback, without TLS.
type Registry struct {
	*Server
	Host    string   // host:port
	account *Account // nil: it is open to all
	tokens  *tokens  // nil for none
}

// StartRegistry starts a registry that keeps its data in dir. The caller stops it.
func StartRegistry(dir string) (*Registry, error) { return startRegistry(dir, nil, "") }

// startRegistry takes further lines of the configuration.
func startRegistry(dir string, account *Account, more string) (*Registry, error) {
	host, err := FreeAddress()
	if err != nil {
		return nil, err
	}
	r := &Registry{Host: host, account: account}
	config := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf(`version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}}
http: {addr: %q}
%s`, filepath.Join(dir, "data"), host, more)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command("registry", "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=none", "OTEL_LOGS_EXPORTER=none")
	r.Server, err = serve(cmd, filepath.Join(dir, "registry.log"), func() error {
		answer, err := http.Get("http://" + host + "/v2/")
		if err != nil {
			return err
		}
		return answer.Body.Close()
	})
	return r, err
}

// Stop ends the registry. There is nothing that it could lose.
func (r *Registry) Stop() error {
	if r.tokens != nil {
		r.tokens.Close()
	}
	return r.Kill()
}

// FreeAddress returns a loopback address that nothing listened on a moment ago.
func FreeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// PushImage stores an image as repository:tag.
func (r *Registry) PushImage(repoTag string, img v1.Image) error {
	ref, err := name.ParseReference(r.Host + "/" + repoTag)
	if err != nil {
		return err
	}
	return remote.Write(ref, img, r.options()...)
}

// PushIndex stores an index and its images as repository:tag.
func (r *Registry) PushIndex(repoTag string, index v1.ImageIndex) error {
	ref, err := name.ParseReference(r.Host + "/" + repoTag)
	if err != nil {
		return err
	}
	return remote.WriteIndex(ref, index, r.options()...)
}

// Image fetches the image that repository:tag is on this machine's platform.
func (r *Registry) Image(repoTag string) (v1.Image, error) {
	ref, err := name.ParseReference(r.Host + "/" + repoTag)
	if err != nil {
		return nil, err
	}
	return remote.Image(ref, r.options()...)
}

// Index fetches the index repository:tag.
func (r *Registry) Index(repoTag string) (v1.ImageIndex, error) {
	ref, err := name.ParseReference(r.Host + "/" + repoTag)
	if err != nil {
		return nil, err
	}
	return remote.Index(ref, r.options()...)
}

func (r *Registry) options() []remote.Option {
	switch {
	case r.tokens != nil:
		return []remote.Option{remote.WithTransport(r.tokens)}
	case r.account != nil:
		return []remote.Option{remote.WithAuth(&authn.Basic{Username: r.account.User, Password: r.account.Password})}
	}
	return nil
}
