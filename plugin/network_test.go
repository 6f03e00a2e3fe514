package plugin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/plugin/config"
)

func TestNetworkMode(t *testing.T) {
	t.Parallel()
	there := filepath.Join(t.TempDir(), "c.conflist")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	plugins := t.TempDir()
	for _, name := range []string{"bridge", "host-local", "firewall"} {
		if err := os.WriteFile(filepath.Join(plugins, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	none := t.TempDir()
	for _, c := range []struct {
		mode, file, dir string
		rootless        bool
		want            string
	}{
		{"auto", there, none, false, "cni"},
		{"auto", there, none, true, "host"},
		{"auto", there + "x", none, false, "host"},
		{"host", there, none, false, "host"},
		{"bridge", there, none, false, "bridge"},
		{"cni", there + "x", none, true, "cni"},
		{"auto", there + "x", plugins, false, "bridge"},
		{"auto", there, plugins, false, "cni"},
		{"auto", there + "x", plugins, true, "host"},
		{"cni-or-host", there + "x", plugins, false, "host"},
		{"cni-or-host", there, plugins, false, "cni"},
	} {
		cfg := config.Config{Network: config.Network{Mode: c.mode, CNIConfig: c.file, CNIBinDir: c.dir}, Sandbox: config.Sandbox{Rootless: c.rootless}}
		if got := networkMode(cfg); got != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
		label := map[bool]string{true: "host", false: "cni"}[c.want == "host"]
		if got := workerLabels(cfg, &store.Store{})[labelPrefix+"network"]; got != label {
			t.Errorf("%+v: label %s", c, got)
		}
	}
}

func TestOpenNetwork(t *testing.T) {
	t.Parallel()
	cfg := config.Config{Root: t.TempDir(), Network: config.Network{Mode: "host"}}
	if p, err := openNetwork(cfg); p != nil || err != nil {
		t.Errorf("host: got %v, %v", p, err)
	}
	cfg.Network = config.Network{Mode: "cni", CNIConfig: "/nothing", CNIBinDir: t.TempDir()}
	if _, err := openNetwork(cfg); err == nil || !strings.Contains(err.Error(), "/nothing") {
		t.Errorf("cni: %v", err)
	}
	cfg.Network = config.Network{Mode: "bridge", BridgeName: "b", BridgeSubnet: "10.9.0.0/16", CNIBinDir: t.TempDir()}
	if _, err := openNetwork(cfg); err == nil || !strings.Contains(err.Error(), `"bridge"`) {
		t.Errorf("bridge: %v", err)
	}
}
