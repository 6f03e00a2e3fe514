package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
)

// load reads the configuration. It fails where a plugin is missing.
func load(cfg Config) (*libcni.NetworkConfigList, error) {
	list, err := parse(cfg)
	if err != nil {
		return nil, err
	}
	for _, name := range plugins(list) {
		if _, err := os.Stat(filepath.Join(cfg.PluginDir, filepath.Base(name))); err != nil {
			return nil, fmt.Errorf("CNI plugin %q of network %s is missing; install the CNI plugins in %s, or use network mode host: %w", name, list.Name, cfg.PluginDir, err)
		}
	}
	return list, nil
}

func parse(cfg Config) (list *libcni.NetworkConfigList, err error) {
	switch {
	case cfg.Bridge != nil && cfg.File != "":
		return nil, errors.New("both a bridge and a CNI configuration file are given")
	case cfg.Bridge != nil:
		data, err := cfg.Bridge.list(cfg.Rootless)
		if err != nil {
			return nil, err
		}
		return libcni.NetworkConfFromBytes(data)
	case strings.HasSuffix(cfg.File, ".conflist"):
		list, err = libcni.NetworkConfFromFile(cfg.File)
	default:
		list, err = single(cfg.File)
	}
	if err != nil {
		return nil, fmt.Errorf("CNI configuration %s: %w", cfg.File, err)
	}
	return list, nil
}

// single reads a file with one network, which becomes a list of one.
func single(file string) (*libcni.NetworkConfigList, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	plugin, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	list, err := json.Marshal(map[string]any{
		"cniVersion": plugin.Network.CNIVersion,
		"name":       plugin.Network.Name,
		"plugins":    []json.RawMessage{data},
	})
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(list)
}

// plugins are the names of those that the configuration uses.
func plugins(list *libcni.NetworkConfigList) []string {
	var names []string
	for _, p := range list.Plugins {
		names = append(names, p.Network.Type)
		if p.Network.IPAM.Type != "" {
			names = append(names, p.Network.IPAM.Type)
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
