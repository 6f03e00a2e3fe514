package plugin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/plugin/config"
)

func TestChooseRuntime(t *testing.T) {
	t.Parallel()
	host := &store.Store{Namespace: "ns", Host: &store.HostInfo{Address: "/ctd.sock"}}
	choose := func(s config.Sandbox, st *store.Store) (c sandbox.Config, err error) {
		err = (&Daemon{cfg: config.Config{Sandbox: s}, store: st}).chooseRuntime(t.Context(), &c)
		return c, err
	}
	c, err := choose(config.Sandbox{Runtime: "crun", Init: "/x"}, host)
	if err != nil || c.Binary != "crun" || c.Init != "" || c.Shim != nil {
		t.Errorf("OCI runtime: %+v, %v", c, err)
	}
	c, err = choose(config.Sandbox{Init: "/x"}, host)
	if err != nil || c.Binary != "" || c.Init != "/x" || c.Shim != nil {
		t.Errorf("none: %+v, %v", c, err)
	}
	c, err = choose(config.Sandbox{Runtime: "io.containerd.runsc.v1", RuntimePath: "/shim", RuntimeOptions: map[string]any{"ConfigPath": "/c.toml"}}, host)
	if err != nil || c.Shim == nil || c.Shim.Address != "/ctd.sock" || c.Shim.Namespace != "ns" || c.Shim.Path != "/shim" {
		t.Fatalf("shim: %+v, %v", c.Shim, err)
	}
	if o, ok := c.Shim.Options.(*runtimeoptions.Options); !ok || o.ConfigPath != "/c.toml" {
		t.Errorf("options %v", c.Shim.Options)
	}
	c, err = choose(config.Sandbox{Runtime: "io.containerd.runc.v2", RuntimeOptions: map[string]any{"BinaryName": "crun", "SystemdCgroup": true}}, host)
	if err != nil {
		t.Fatal(err)
	}
	if o, ok := c.Shim.Options.(*runcoptions.Options); !ok || o.BinaryName != "crun" || !o.SystemdCgroup {
		t.Errorf("options %v", c.Shim.Options)
	}
	for want, bad := range map[string]struct {
		config.Sandbox
		st *store.Store
	}{
		"backend":        {config.Sandbox{Runtime: "io.containerd.runc.v2"}, &store.Store{}},
		"runtimeOptions": {config.Sandbox{Runtime: "io.containerd.runc.v2", RuntimeOptions: map[string]any{"Nonsense": 1}}, host},
	} {
		if _, err := choose(bad.Sandbox, bad.st); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", want, err)
		}
	}
}

func TestFindInit(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if got := findInit(t.Context(), ""); got != "" {
		t.Errorf("found %s", got)
	}
	path := filepath.Join(dir, initName)
	if err := os.WriteFile(path, []byte("#!"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := findInit(t.Context(), ""); got != path {
		t.Errorf("found %s", got)
	}
	if got := findInit(t.Context(), "/configured"); got != "/configured" {
		t.Errorf("found %s", got)
	}
}
