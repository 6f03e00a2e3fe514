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
	for _, c := range []struct {
		mode, file string
		rootless   bool
		want       string
	}{
		{"auto", there, false, "cni"},
		{"auto", there, true, "host"},
		{"auto", there + "x", false, "bridge"},
		{"auto", there + "x", true, "host"},
		{"host", there, false, "host"},
		{"bridge", there, false, "bridge"},
		{"bridge", there, true, "bridge"},
		{"cni", there + "x", true, "cni"},
		{"cni-or-host", there + "x", false, "host"},
		{"cni-or-host", there, false, "cni"},
	} {
		cfg := config.Config{Network: config.Network{Mode: c.mode, CNIConfig: c.file}, Sandbox: config.Sandbox{Rootless: c.rootless}}
		if got := networkMode(cfg); got != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
	}
}

func TestOpenNetwork(t *testing.T) {
	t.Parallel()
	cfg := config.Config{Root: t.TempDir(), Network: config.Network{Mode: "host"}}
	if p, err := openNetwork(t.Context(), cfg); p != nil || err != nil {
		t.Errorf("host: got %v, %v", p, err)
	}
	cfg.Network = config.Network{Mode: "cni", CNIConfig: "/nothing", CNIBinDir: t.TempDir()}
	if p, err := openNetwork(t.Context(), cfg); p != nil || err == nil || !strings.Contains(err.Error(), "/nothing") {
		t.Errorf("cni: %v, %v", p, err)
	}
	cfg.Network = config.Network{Mode: "bridge", BridgeSubnet: "10.9"}
	if p, err := openNetwork(t.Context(), cfg); p != nil || err == nil || !strings.Contains(err.Error(), `subnet "10.9"`) {
		t.Errorf("a bridge that can't be made: %v, %v", p, err)
	}
	cfg.Network.Mode = "auto"
	if p, err := openNetwork(t.Context(), cfg); p != nil || err == nil {
		t.Errorf("auto, a configured bridge that can't be made: %v, %v", p, err)
	}
	cfg.Network.BridgeSubnet = ""
	p, err := openNetwork(t.Context(), cfg)
	if err != nil || p == nil {
		t.Fatalf("auto: %v, %v", p, err)
	}
	if got := workerLabels(cfg, &store.Store{}, p)[labelPrefix+"network"]; got != "cni" {
		t.Errorf("label %s", got)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}
