package plugin

import (
	"testing"

	"github.com/containerd/platforms"
	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/plugin/config"
)

func TestWorkerLabels(t *testing.T) {
	t.Parallel()
	get := func(cfg config.Config, st *store.Store, name string) string {
		return workerLabels(cfg, st, nil)["org.mobyproject.buildkit.worker."+name]
	}
	embedded := &store.Store{Snapshotter: "native"}
	host := &store.Store{Snapshotter: "overlayfs", Namespace: "k8s.io", Host: &store.HostInfo{UUID: "u"}}
	cfg := config.Config{Labels: map[string]string{labelPrefix + "sandbox": "true"}}
	if get(cfg, embedded, "executor") != "oci" || get(cfg, embedded, "snapshotter") != "native" || get(cfg, embedded, "containerd.uuid") != "" || get(cfg, embedded, "sandbox") != "true" {
		t.Errorf("embedded: %v", workerLabels(cfg, embedded, nil))
	}
	if get(cfg, host, "executor") != "containerd" || get(cfg, host, "containerd.uuid") != "u" || get(cfg, host, "containerd.namespace") != "k8s.io" {
		t.Errorf("host: %v", workerLabels(cfg, host, nil))
	}
	cfg.Sandbox.HostPID = true
	if get(cfg, embedded, "oci.process-mode") != "no-sandbox" {
		t.Errorf("host PID: %v", workerLabels(cfg, embedded, nil))
	}
}

func TestWorkerPlatforms(t *testing.T) {
	t.Parallel()
	own, err := workerPlatforms(nil)
	if err != nil || !platforms.Default().Match(own[0]) {
		t.Errorf("%v, error %v", own, err)
	}
	got, err := workerPlatforms([]string{"linux/arm64", "linux/arm/v7"})
	if err != nil || len(got) != 2 || platforms.Format(got[0]) != "linux/arm64" || platforms.Format(got[1]) != "linux/arm/v7" {
		t.Errorf("%v, error %v", got, err)
	}
}
