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

// networkMode is the mode that is meant: cni where there is a configuration of it, else
// with auto a bridge where what that takes is installed, else host. A rootless daemon
// may not be able to use either.
func networkMode(cfg config.Config) string {
	n := cfg.Network
	if n.Mode != "auto" && n.Mode != "cni-or-host" {
		return n.Mode
	}
	if cfg.Sandbox.Rootless {
		return "host"
	}
	if _, err := os.Stat(n.CNIConfig); err == nil {
		return "cni"
	}
	if n.Mode == "auto" && cni.HasBridge(n.CNIBinDir) {
		return "bridge"
	}
	return "host"
}
