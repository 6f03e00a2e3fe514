package server

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/docker/cli/cli/config"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kiln-build/kiln/snapshotter/lazy"
)

func dockerFile(host, user, password string) []byte {
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	return fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, auth)
}

func credentials(t *testing.T, k *keychain, host, ref string) string {
	t.Helper()
	spec, err := reference.Parse(ref)
	if err != nil {
		t.Fatal(err)
	}
	user, secret, err := k.credentials(host, spec)
	if err != nil {
		t.Error(err)
	}
	return user + ":" + secret
}

func TestDockerFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), dockerFile("a.example", "ann", "secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	was := config.Dir()
	config.SetDir(dir)
	defer config.SetDir(was)
	k := newKeychain(lazy.Settings{DockerConfig: true})
	k.close() // other settings count for new mounts, those of before are read on
	for host, want := range map[string]string{"a.example": "ann:secret", "b.example": ":"} {
		if got := credentials(t, k, host, host+"/b:1"); got != want {
			t.Errorf("%s: %q", host, got)
		}
	}
}

func TestKubernetesSecrets(t *testing.T) {
	t.Parallel()
	asked := 0
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.Header.Get("Authorization") != "Bearer robot" || r.URL.Path != "/api/v1/secrets" ||
			r.URL.Query().Get("fieldSelector") != "type=kubernetes.io/dockerconfigjson" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		item := func(data []byte) map[string]any {
			return map[string]any{"data": map[string][]byte{".dockerconfigjson": data}}
		}
		json.NewEncoder(w).Encode(map[string]any{"items": []any{
			item([]byte("{")), item(dockerFile("a.example", "ann", "secret")), item(dockerFile(dockerHub, "hub", "x")),
		}})
	}))
	defer api.Close()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	k := newKeychain(lazy.Settings{Kubeconfig: file})
	defer k.close()
	if got := credentials(t, k, "a.example", "a.example/b:1"); got != ":" {
		t.Errorf("before there is a file: %q", got)
	}
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c",
"clusters":[{"name":"k","cluster":{"server":%q,"insecure-skip-tls-verify":true}}],"users":[{"name":"u","user":{"token":"robot"}}],
"contexts":[{"name":"c","context":{"cluster":"k","user":"u"}}]}`, api.URL)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{"a.example": "ann:secret", "registry-1.docker.io": "hub:x", "b.example": ":"} {
		if got := credentials(t, k, host, host+"/b:1"); got != want {
			t.Errorf("%s: %q", host, got)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

func TestDeadCluster(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"k","cluster":{"server":"http://127.0.0.1:1"}}],
"contexts":[{"name":"c","context":{"cluster":"k"}}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	k := newKeychain(lazy.Settings{Kubeconfig: file})
	defer k.close()
	begin := time.Now()
	if got := credentials(t, k, "a.example", "a.example/b:1"); got != ":" || time.Since(begin) > lookupTimeout+time.Second {
		t.Errorf("%q after %s", got, time.Since(begin))
	}
}

// imageService is what stands for containerd's.
type imageService struct {
	runtime.UnimplementedImageServiceServer
}

func TestCRI(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "kiln-cri-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "containerd.sock"))
	if err != nil {
		t.Fatal(err)
	}
	behind := grpc.NewServer()
	runtime.RegisterImageServiceServer(behind, imageService{})
	go behind.Serve(l)
	defer behind.Stop()
	k := newKeychain(lazy.Settings{})
	defer k.close()
	socket := filepath.Join(dir, "cri.sock")
	s, err := k.serveCRI(lazy.CRI{Socket: socket, Image: l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	kubelet := runtime.NewImageServiceClient(conn)
	// The service behind it doesn't pull; what was sent counts nevertheless.
	for range 50 {
		if _, err = kubelet.PullImage(t.Context(), &runtime.PullImageRequest{
			Image: &runtime.ImageSpec{Image: "a.example/b:1"}, Auth: &runtime.AuthConfig{Username: "kubelet", Password: "secret"},
		}); credentials(t, k, "a.example", "a.example/b:1") != ":" {
			break
		}
		time.Sleep(20 * time.Millisecond) // it is connecting
	}
	if got := credentials(t, k, "a.example", "a.example/b:1"); got != "kubelet:secret" {
		t.Errorf("%q, %v", got, err)
	}
	if got := credentials(t, k, "a.example", "a.example/other:1"); got != ":" {
		t.Errorf("another image: %q", got)
	}
}
