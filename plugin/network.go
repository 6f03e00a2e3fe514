package plugin

import (
	"os"
	"path/filepath"

	"github.com/kiln-build/kiln/builder/sandbox/cni"
	"github.com/kiln-build/kiln/plugin/config"
)

// openNetwork opens what gives networks to processes that ask for none in
// particular. It is nil where that is the host's.
func openNetwork(cfg config.Config) (*cni.Provider, error) {
	n := cfg.Network
	c := cni.Config{
		Dir:       filepath.Join(cfg.Root, "network"),
		PluginDir: n.CNIBinDir,
		Ready:     n.PoolSize,
		Rootless:  cfg.Sandbox.Rootless,
	}
	switch networkMode(cfg) {
	case "bridge":
		c.Bridge = &cni.Bridge{Name: n.BridgeName, Subnet: n.BridgeSubnet}
	case "cni":
		c.File = n.CNIConfig
	default:
		return nil, nil
	}
	return cni.Open(c)
}

// networkMode is the mode that is meant by auto: that of a CNI configuration
// where there is one. A rootless daemon may not be able to use it.
func networkMode(cfg config.Config) string {
	if cfg.Network.Mode != "auto" {
		return cfg.Network.Mode
	}
	if _, err := os.Stat(cfg.Network.CNIConfig); err == nil && !cfg.Sandbox.Rootless {
		return "cni"
	}
	return "host"
}
