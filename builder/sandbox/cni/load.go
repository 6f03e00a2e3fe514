package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	gocni "github.com/containerd/go-cni"
)

// load reads the configuration. It fails where a plugin is missing.
func load(cfg Config) (gocni.CNI, error) {
	var source gocni.Opt
	what := cfg.File
	switch {
	case cfg.Bridge != nil && cfg.File != "":
		return nil, errors.New("both a bridge and a CNI configuration file are given")
	case cfg.Bridge != nil:
		list, err := cfg.Bridge.list(cfg.Rootless)
		if err != nil {
			return nil, err
		}
		source, what = gocni.WithConfListBytes(list), "bridge "+cfg.Bridge.Name
	case strings.HasSuffix(cfg.File, ".conflist"):
		source = gocni.WithConfListFile(cfg.File)
	default:
		source = gocni.WithConfFile(cfg.File)
	}
	if cfg.File != "" {
		if _, err := os.Stat(cfg.File); err != nil {
			return nil, fmt.Errorf("CNI configuration: %w", err)
		}
	}
	c, err := gocni.New(gocni.WithPluginDir([]string{cfg.PluginDir}), gocni.WithInterfacePrefix("eth"), source)
	if err != nil {
		return nil, fmt.Errorf("CNI configuration %s: %w", what, err)
	}
	for _, name := range plugins(c) {
		if _, err := os.Stat(filepath.Join(cfg.PluginDir, filepath.Base(name))); err != nil {
			return nil, fmt.Errorf("CNI plugin %q of %s is missing; install the CNI plugins in %s, or use network mode host: %w", name, what, cfg.PluginDir, err)
		}
	}
	return c, nil
}

// plugins are the names of those that the configuration uses.
func plugins(c gocni.CNI) []string {
	var names []string
	for _, network := range c.GetConfig().Networks {
		for _, p := range network.Config.Plugins {
			names = append(names, p.Network.Type)
			if p.Network.IPAM.Type != "" {
				names = append(names, p.Network.IPAM.Type)
			}
		}
	}
	return names
}

// list is the configuration of networks on the bridge, which is their gateway.
func (b *Bridge) list(rootless bool) ([]byte, error) {
	if b.Name == "" || len(b.Name) > 15 || strings.ContainsAny(b.Name, "/ ") {
		return nil, fmt.Errorf("%q can't be the name of a bridge: it takes 1 to 15 characters, without slash and space", b.Name)
	}
	subnet, err := netip.ParsePrefix(b.Subnet)
	if err != nil {
		return nil, fmt.Errorf("subnet of bridge %s: %w", b.Name, err)
	}
	firewall := map[string]any{"type": "firewall", "ingressPolicy": "same-bridge"}
	if rootless {
		// firewalld, which the plugin would ask first, is the host's.
		firewall["backend"] = "iptables"
	}
	return json.Marshal(map[string]any{
		"cniVersion": "1.0.0",
		"name":       b.Name,
		"plugins": []map[string]any{
			{
				"type": "bridge", "bridge": b.Name, "isDefaultGateway": true, "ipMasq": true,
				"ipam": map[string]any{
					"type": "host-local", "ranges": [][]map[string]string{{{"subnet": subnet.Masked().String()}}},
				},
			},
			firewall,
		},
	})
}
