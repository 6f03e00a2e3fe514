package cni

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/builder/sandbox"
)

func write(t testing.TB, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const (
	one = `{"cniVersion":"1.0.0","name":"NAME","type":"bridge","bridge":"NAME","isDefaultGateway":true,"ipMasq":true,
		"ipam":{"type":"host-local","ranges":[[{"subnet":"SUBNET"}]]}}`
	list = `{"cniVersion":"1.0.0","name":"NAME","plugins":[` + one + `,{"type":"firewall"}]}`
)

func TestConfigurationFile(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"c.json": one, "c.conf": one, "c.conflist": list} {
		cfg, n := newConfig(t)
		cfg.File = write(t, name, n.fill(text))
		p := open(t, cfg)
		ns := take(t, p, sandbox.NetworkRequest{})
		if addrs := in(t, ns, "ip", "-o", "-4", "addr"); !strings.Contains(addrs, "eth0") {
			t.Errorf("%s: %s", name, addrs)
		}
		ns.Close()
		if err := p.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantNothingLeft(t, cfg, n)
	}
}

func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"no file":        {Config{PluginDir: pluginDir, File: "/nothing"}, "no such file"},
		"bad file":       {Config{PluginDir: pluginDir, File: write(t, "a.json", "{")}, "a.json"},
		"bad list":       {Config{PluginDir: pluginDir, File: write(t, "a.conflist", "{}")}, "a.conflist"},
		"missing plugin": {Config{PluginDir: t.TempDir(), File: write(t, "b.conflist", list)}, `CNI plugin "bridge" of network NAME is missing`},
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
	cfg, n := newConfig(t)
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
	wantNothingLeft(t, cfg, n)
}
