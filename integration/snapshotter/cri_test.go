package snapshotter

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/integration/testbed"
)

// criConfig is how containerd's plugins for Kubernetes are configured, by release.
// They pull over plain HTTP from the hosts of a folder.
var criConfig = map[testbed.Release]string{
	testbed.Containerd2: `
[plugins."io.containerd.cri.v1.images"]
snapshotter = "kiln"
disable_snapshot_annotations = false
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "%[1]s/pause:latest"
[plugins."io.containerd.cri.v1.images".registry]
config_path = %[2]q
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
conf_dir = %[3]q
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
`,
	testbed.Containerd17: `
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "%[1]s/pause:latest"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "kiln"
disable_snapshot_annotations = false
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = %[2]q
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = %[3]q
`,
}

// startCRI starts a containerd that serves Kubernetes, and pulls from the
// registries (HOST:PORT), and a daemon in Kubernetes' namespace with more flags.
func startCRI(t *testing.T, release testbed.Release, registries []string, flags ...string) *bed {
	t.Helper()
	home := testbed.Dir(t)
	dir, plugin, own := setup(t)
	b := &bed{TB: t, env: []string{"CONTAINERD_NAMESPACE=k8s.io"}}
	certs := filepath.Join(home, "certs")
	for _, r := range append(registries, registry.Host) {
		b.hosts(certs, r, fmt.Sprintf("server = \"http://%s\"\n", r))
	}
	b.containerd = release.StartIn(t, home, strings.TrimPrefix(plugin, noKubernetes)+fmt.Sprintf(criConfig[release], registry.Host, certs, home))
	own = append(own, "--containerd-address", b.containerd.Socket, "--containerd-namespace", "k8s.io")
	b.daemon = testbed.StartDaemonIn(t, dir, append(own, flags...)...)
	b.build("FROM BASE\nENTRYPOINT [\"sleep\", \"1000\"]\n", "--tag", registry.Host+"/pause:latest")
	return b
}

// hosts says in a folder, in containerd's format, how a registry is reached.
func (b *bed) hosts(folder, registry, text string) {
	b.Helper()
	b.must(os.MkdirAll(filepath.Join(folder, registry), 0o755))
	b.must(os.WriteFile(filepath.Join(folder, registry, "hosts.toml"), []byte(text), 0o644))
}

// TestKubernetes does what a kubelet does: pulls an image, and one lazily, and
// starts a pod of them and of one that was built in containerd's namespace for
// Kubernetes.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	releases(t, func(t *testing.T, release testbed.Release) {
		b := startLazyOn(t, testbed.EStargz, func(t *testing.T, host string) *bed {
			return startCRI(t, release, []string{host}, "--lazy-background-fetch=false")
		})
		busybox := registry.Host + "/busybox:latest"
		b.crictl("pull", busybox)
		b.crictl("pull", b.ref())
		b.notDownloaded()
		b.build(app+"ENTRYPOINT [\"sh\", \"-c\", \"cat /hello; sleep 1000\"]\n", "--tag", "example.test/app")
		if n := len(strings.Fields(b.crictl("images", "-q"))); n != 4 {
			t.Errorf("%d images", n)
		}
		pod := b.pod("pod")
		for image, says := range map[string]string{"example.test/app:latest": "hello", busybox: "none", b.ref(): "none"} {
			if out := pod.says(image, "cat /hello 2>/dev/null || echo none"); out != says {
				t.Errorf("%s says %q", image, out)
			}
		}
		b.part("of a pod's base")
		pod.end()
		b.empty()
	})
}

// pod is one of Kubernetes'.
type pod struct {
	*bed
	config, id string
}

func (b *bed) pod(name string) *pod {
	b.Helper()
	home := b.TempDir()
	p := &pod{bed: b, config: filepath.Join(home, "pod.json")}
	b.must(os.WriteFile(p.config, fmt.Appendf(nil, `{"metadata": {"name": %q, "namespace": "default", "uid": "kiln"},
		"log_directory": %q, "linux": {"security_context": {"namespace_options": {"network": 2}}}}`, name, home), 0o600))
	p.id = b.crictl("runp", p.config)
	return p
}

// says starts a container of an image and has its shell say something.
func (p *pod) says(image, script string) string {
	p.Helper()
	config := filepath.Join(p.TempDir(), "container.json")
	p.must(os.WriteFile(config, fmt.Appendf(nil, `{"metadata": {"name": %q}, "image": {"image": %q},
		"command": ["sleep", "1000"], "linux": {}}`, strings.NewReplacer("/", "-", ":", "-").Replace(image), image), 0o600))
	c := p.crictl("create", p.id, config, p.config)
	p.crictl("start", c)
	return p.crictl("exec", c, "sh", "-c", script)
}

// end removes it and its containers.
func (p *pod) end() {
	p.Helper()
	p.crictl("stopp", p.id)
	p.crictl("rmp", p.id)
}

// crictl runs Kubernetes' client of containerd.
func (b *bed) crictl(args ...string) string {
	b.Helper()
	return strings.TrimSpace(b.run(b.crictlCmd(args...)).stdout)
}

func (b *bed) crictlCmd(args ...string) *exec.Cmd {
	return exec.Command("crictl", append([]string{"--config", os.DevNull, "--timeout", "1m", "--runtime-endpoint", "unix://" + b.containerd.Socket}, args...)...)
}
