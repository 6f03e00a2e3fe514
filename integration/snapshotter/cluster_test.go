//go:build cluster

package snapshotter

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/kiln-build/kiln/integration/testbed"
)

// TestClusterCredentials: secrets of a Kubernetes cluster open what is pulled, for a
// user who may do nothing but list them.
func TestClusterCredentials(t *testing.T) {
	basic, token := private(t)
	_, unknown := private(t)
	cluster := testbed.StartCluster(t, map[string]string{"robots-token": "robot"})
	const rbac = "/apis/rbac.authorization.k8s.io/v1"
	objects := []struct{ path, text string }{
		{"/api/v1/namespaces", `{"metadata": {"name": "apps"}}`},
		{rbac + "/clusterroles", `{"metadata": {"name": "pull"}, "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]}`},
		{rbac + "/clusterrolebindings", `{"metadata": {"name": "pull"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "pull"},
			"subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "robot"}]}`},
	}
	for namespace, host := range map[string]string{"default": basic.Host, "apps": token.Host} {
		config := fmt.Sprintf(`{"auths":{%q:{"username":%q,"password":%q}}}`, host, ann.User, ann.Password)
		objects = append(objects, struct{ path, text string }{"/api/v1/namespaces/" + namespace + "/secrets", fmt.Sprintf(
			`{"metadata": {"name": "login"}, "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": %q}}`,
			base64.StdEncoding.EncodeToString([]byte(config)))})
	}
	home := testbed.Dir(t)
	kubeconfig, config := filepath.Join(home, "kubeconfig"), filepath.Join(home, "kilnd.toml")
	text := fmt.Sprintf("[snapshots.lazy]\nbackgroundFetch = false\ndockerConfig = false\nkubeconfig = %q\n", kubeconfig)
	for name, data := range map[string][]byte{kubeconfig: cluster.Kubeconfig("robots-token"), config: []byte(text)} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := startOn(t, testbed.Containerd2, "--config", config)
	for _, o := range objects {
		b.must(cluster.Create(o.path, o.text))
	}
	for name, i := range map[string]*lazyImage{"basic": basic, "token": token} {
		b.ctr("images", "pull", "--plain-http", "--user", ann.User+":"+ann.Password, i.ref())
		if out := b.container(i.ref(), "wc", "-c", "/noise/1"); out != "524288 /noise/1\n" {
			t.Errorf("%s: the container says %q", name, out)
		}
		i.part(t, name)
		if have := i.downloaded(b); len(have) > 0 {
			t.Errorf("%s: layers %v were downloaded", name, have)
		}
	}
	b.ctr("images", "pull", "--plain-http", "--user", ann.User+":"+ann.Password, unknown.ref())
	if have := unknown.downloaded(b); len(have) != 1 {
		t.Errorf("of a registry that no secret is for layers %v were downloaded", have)
	}
	b.empty()
}
