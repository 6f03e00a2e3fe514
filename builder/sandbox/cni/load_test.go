package cni

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/builder/sandbox"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const (
	one = `{"cniVersion":"1.0.0","name":"NAME","type":"bridge","bridge":"NAME","isGateway":true,
		"ipam":{"type":"host-local","ranges":[[{"subnet":"SUBNET"}]]}}`
	list = `{"cniVersion":"1.0.0","name":"NAME","plugins":[{"type":"loopback"},` + one + `]}`
)

func TestConfigurationFile(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"c.json": one, "c.conf": one, "c.conflist": list} {
		cfg := newConfig(t)
		text = strings.NewReplacer("NAME", cfg.Bridge.Name, "SUBNET", cfg.Bridge.Subnet).Replace(text)
		file := cfg
		file.Bridge, file.File = nil, write(t, name, text)
		p := open(t, file)
		ns := take(t, p, sandbox.NetworkRequest{})
		if addrs := in(t, ns, "ip", "-o", "-4", "addr"); !strings.Contains(addrs, "eth0") {
			t.Errorf("%s: %s", name, addrs)
		}
		ns.Close()
		if err := p.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantNothingLeft(t, cfg)
	}
}

func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	bridge := &Bridge{Name: "b", Subnet: "10.0.0.0/8"}
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"both":           {Config{PluginDir: pluginDir, File: "f", Bridge: bridge}, "both a bridge and a CNI configuration file"},
		"no file":        {Config{PluginDir: pluginDir, File: "/nothing"}, "no such file"},
		"bad file":       {Config{PluginDir: pluginDir, File: write(t, "a.json", "{")}, "a.json"},
		"bad list":       {Config{PluginDir: pluginDir, File: write(t, "a.conflist", "{}")}, "a.conflist"},
		"missing plugin": {Config{PluginDir: t.TempDir(), Bridge: bridge}, `CNI plugin "bridge" of network b is missing`},
		"no name":        {Config{PluginDir: pluginDir, Bridge: &Bridge{Subnet: "10.0.0.0/8"}}, "can't be the name of a bridge"},
		"bad name":       {Config{PluginDir: pluginDir, Bridge: &Bridge{Name: "../x", Subnet: "10.0.0.0/8"}}, "can't be the name of a bridge"},
		"bad subnet":     {Config{PluginDir: pluginDir, Bridge: &Bridge{Name: "b", Subnet: "10.0.0.0"}}, "subnet of bridge b"},
	} {
		c.cfg.Dir = t.TempDir()
		if p, err := Open(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v", name, p, err)
		}
	}
}

// TestFailingPlugin: what a plugin that fails has begun is undone.
func TestFailingPlugin(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	dir := t.TempDir()
	for _, name := range []string{"bridge", "host-local"} {
		if err := os.Symlink(filepath.Join(pluginDir, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	broken := "#!/bin/sh\ncase $CNI_COMMAND in ADD) echo '{\"code\":7,\"msg\":\"no firewall here\"}'; exit 1;; esac\n"
	if err := os.WriteFile(filepath.Join(dir, "firewall"), []byte(broken), 0o755); err != nil {
		t.Fatal(err)
	}
	cfg.PluginDir = dir
	p := open(t, cfg)
	for range 2 {
		if _, err := p.New(t.Context(), sandbox.NetworkRequest{}); err == nil || !strings.Contains(err.Error(), "no firewall here") {
			t.Errorf("got %v", err)
		}
	}
	wantNothingLeft(t, cfg)
	p.Close()
	if hasBridge(t, cfg.Bridge.Name) {
		t.Error("the bridge is still there")
	}
}
