package plugin

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/log"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/plugin/config"
	"github.com/pelletier/go-toml/v2"
)

// chooseRuntime says how processes are started: by one of containerd's shims, by an
// OCI runtime, or, if none is named, by kiln-init.
func (d *Daemon) chooseRuntime(ctx context.Context, c *sandbox.Config) error {
	s := d.cfg.Sandbox
	switch {
	case s.Shim():
		host := d.store.Host
		if host == nil {
			return fmt.Errorf("sandbox.runtime: %s needs the host's containerd, which is not used: set backend = %q, or name an OCI runtime", s.Runtime, config.BackendHost)
		}
		options, err := shimOptions(s)
		if err != nil {
			return fmt.Errorf("sandbox.runtimeOptions of %s: %w", s.Runtime, err)
		}
		c.Shim = &sandbox.Shim{
			Address: host.Address, Namespace: d.store.Namespace,
			Runtime: s.Runtime, Path: s.RuntimePath, Options: options,
		}
	case s.Runtime != "":
		c.Binary = s.Runtime
	case !s.Rootless: // it takes rights that those daemons don't have
		c.Init = findInit(ctx, s.Init)
	}
	return nil
}

// runcShim is the one whose options have a type of their own.
const runcShim = "io.containerd.runc.v2"

// shimOptions are the configured ones as the message that the shim takes, nil if
// there are none.
func shimOptions(s config.Sandbox) (any, error) {
	if len(s.RuntimeOptions) == 0 {
		return nil, nil
	}
	text, err := toml.Marshal(s.RuntimeOptions)
	if err != nil {
		return nil, err
	}
	var options any = new(runtimeoptions.Options)
	if s.Runtime == runcShim {
		options = new(runcoptions.Options)
	}
	err = toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(options)
	return options, err
}

// initName is the program by which processes are started without a runtime.
const initName = "kiln-init"

// findInit looks for that program, if it isn't configured, beside this one and on
// the PATH. It is "" if there is none: what it is for takes longer then.
func findInit(ctx context.Context, configured string) string {
	if configured != "" {
		return configured
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), initName)
		if _, err := os.Stat(beside); err == nil {
			return beside
		}
	}
	path, err := exec.LookPath(initName)
	if err != nil {
		log.G(ctx).Warnf("%s is neither beside this program nor on the PATH: steps are started by runc, which takes longer", initName)
		return ""
	}
	return path
}
