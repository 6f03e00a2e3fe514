package dial

import (
	"net/url"
	"strings"
	"testing"
)

func TestHelperCommands(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"docker-container://name":                          "docker exec -i name buildctl dial-stdio",
		"docker-container://name?context=ctx":              "docker --context=ctx exec -i name buildctl dial-stdio",
		"podman-container://name":                          "podman exec -i name buildctl dial-stdio",
		"nerdctl-container://name?namespace=k8s.io":        "nerdctl --namespace=k8s.io exec -i name buildctl dial-stdio",
		"kube-pod://pod":                                   "kubectl exec -i pod -- buildctl dial-stdio",
		"kube-pod://pod?context=c&namespace=n&container=x": "kubectl --context=c --namespace=n exec --container=x -i pod -- buildctl dial-stdio",
		"ssh://host":                  "ssh -- host buildctl dial-stdio",
		"ssh://me@host:22/run/k.sock": "ssh -p 22 -l me -- host buildctl --addr unix:///run/k.sock dial-stdio",
	} {
		parsed, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		argv, err := helper(parsed)
		if got := strings.Join(argv, " "); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", address, got, err, want)
		}
	}
}
