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

// TestKubernetes does what a kubelet does: pulls an image, and starts a pod of it
// and of one that was built in containerd's namespace for Kubernetes.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	home := testbed.Dir(t)
	dir, plugin, flags := setup(t)
	certs := filepath.Join(home, "certs", registry.Host)
	b := &bed{TB: t}
	b.must(os.MkdirAll(certs, 0o755))
	b.must(os.WriteFile(filepath.Join(certs, "hosts.toml"), fmt.Appendf(nil, "server = \"http://%s\"\n", registry.Host), 0o644))
	b.containerd = testbed.StartContainerdIn(t, home, strings.TrimPrefix(plugin, noKubernetes)+fmt.Sprintf(`
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
`, registry.Host, filepath.Dir(certs), home))
	b.daemon = testbed.StartDaemonIn(t, dir, append(flags, "--containerd-address", b.containerd.Socket, "--containerd-namespace", "k8s.io")...)
	b.env = []string{"CONTAINERD_NAMESPACE=k8s.io"}

	busybox := registry.Host + "/busybox:latest"
	b.crictl("pull", busybox)
	b.build("FROM BASE\nENTRYPOINT [\"sleep\", \"1000\"]\n", "--tag", registry.Host+"/pause:latest")
	b.build(app+"ENTRYPOINT [\"sh\", \"-c\", \"cat /hello; sleep 1000\"]\n", "--tag", "example.test/app")
	if n := len(b.crictl("images", "-q")); n == 0 {
		t.Error("no images")
	}
	pod := filepath.Join(home, "pod.json")
	b.must(os.WriteFile(pod, fmt.Appendf(nil, `{"metadata": {"name": "pod", "namespace": "default", "uid": "kiln"},
		"log_directory": %q, "linux": {"security_context": {"namespace_options": {"network": 2}}}}`, home), 0o600))
	id := b.crictl("runp", pod)
	for _, image := range []string{"example.test/app:latest", busybox} {
		container := filepath.Join(home, "container.json")
		b.must(os.WriteFile(container, fmt.Appendf(nil, `{"metadata": {"name": %q}, "image": {"image": %q},
			"command": ["sleep", "1000"], "linux": {}}`, filepath.Base(image), image), 0o600))
		c := b.crictl("create", id, container, pod)
		b.crictl("start", c)
		if out := b.crictl("exec", c, "sh", "-c", "cat /hello 2>/dev/null || echo none"); out != map[bool]string{true: "none", false: "hello"}[image == busybox] {
			t.Errorf("%s says %q", image, out)
		}
	}
	b.crictl("stopp", id)
	b.crictl("rmp", id)
	b.empty()
}

// crictl runs Kubernetes' client of containerd.
func (b *bed) crictl(args ...string) string {
	b.Helper()
	cmd := exec.Command("crictl", append([]string{"--config", os.DevNull, "--runtime-endpoint", "unix://" + b.containerd.Socket}, args...)...)
	return strings.TrimSpace(b.run(cmd).stdout)
}
