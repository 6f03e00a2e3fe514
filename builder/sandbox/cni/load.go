package cni

import (
	"encoding/json"
	"fmt"
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
			return nil, fmt.Errorf("CNI plugin %q of network %s is missing; install the CNI plugins in %s, or use network mode bridge: %w", name, list.Name, cfg.PluginDir, err)
		}
	}
	return list, nil
}

func parse(cfg Config) (list *libcni.NetworkConfigList, err error) {
	if strings.HasSuffix(cfg.File, ".conflist") {
		list, err = libcni.NetworkConfFromFile(cfg.File)
	} else {
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
