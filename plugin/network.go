package plugin

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/log"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/bridge"
	"github.com/kiln-build/kiln/builder/sandbox/cni"
	"github.com/kiln-build/kiln/plugin/config"
)

// networks gives networks to processes that ask for none in particular.
type networks interface {
	sandbox.NetworkProvider
	io.Closer
}

// openNetwork opens what the network mode says. It is nil for the host's network,
// which is also what auto means where no bridge can be made and none is configured.
func openNetwork(ctx context.Context, cfg config.Config) (networks, error) {
	n, mode := cfg.Network, networkMode(cfg)
	if mode != "bridge" && !cfg.Sandbox.Rootless {
		// It may have been the mode of an earlier daemon.
		if err := bridge.Sweep(ctx); err != nil {
			log.G(ctx).WithError(err).Warn("bridges of daemons that were killed stay")
		}
	}
	switch mode {
	case "cni":
		p, err := cni.Open(cni.Config{Dir: filepath.Join(cfg.Root, "network"), PluginDir: n.CNIBinDir, File: n.CNIConfig, Ready: n.PoolSize})
		if err != nil {
			return nil, err
		}
		return p, nil
	case "bridge":
		p, err := bridge.Open(ctx, bridge.Config{Name: n.BridgeName, Subnet: n.BridgeSubnet, Ready: n.PoolSize})
		if err != nil && n.Mode == "auto" && n.BridgeName == "" && n.BridgeSubnet == "" {
			log.G(ctx).WithError(err).Warn("network mode auto: steps have the host's network, loopback included")
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	return nil, nil
}

// networkMode is the mode that is meant: cni where there is a configuration of it, else
// with auto a bridge, else host. A rootless daemon may not be able to use either.
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
	if n.Mode == "auto" {
		return "bridge"
	}
	return "host"
}
