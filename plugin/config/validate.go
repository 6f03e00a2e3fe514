package config

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/util/entitlements"
)

// validate checks what the types can't say. Its errors name the key and what
// may be there instead.
func (c *Config) validate() error {
	errs := []error{
		oneOf("backend", c.Backend, BackendAuto, BackendHost, BackendEmbedded),
		oneOf("log.format", c.Log.Format, "text", "json"),
		oneOf("log.level", c.Log.Level, "fatal", "error", "warn", "info", "debug", "trace"),
		oneOf("network.mode", c.Network.Mode, "auto", "host", "bridge", "cni", "cni-or-host"),
		atLeastZero("sandbox.maxParallelism", c.Sandbox.MaxParallelism),
		atLeastZero("network.poolSize", c.Network.PoolSize),
		atLeastZero("history.maxEntries", c.History.MaxEntries),
		c.TLS.validate(),
		c.Snapshots.validate(),
		c.Sandbox.Limits.validate(),
	}
	if c.Root == "" {
		errs = append(errs, errors.New("root: is empty; give a directory"))
	}
	if len(c.Addresses) == 0 {
		errs = append(errs, errors.New("address: is empty; give for instance unix:///run/kiln/kilnd.sock"))
	}
	for _, address := range c.Addresses {
		errs = append(errs, checkAddress(address))
	}
	for _, name := range c.Entitlements {
		if _, _, err := entitlements.Parse(name); err != nil {
			errs = append(errs, fmt.Errorf("entitlements: %w; there are network.host, security.insecure and device", err))
		}
	}
	for _, p := range c.Platforms {
		if _, err := platforms.Parse(p); err != nil {
			errs = append(errs, fmt.Errorf("platforms: %w", err))
		}
	}
	for _, s := range c.DNS.Nameservers {
		if net.ParseIP(s) == nil {
			errs = append(errs, fmt.Errorf("dns.nameservers: %q is not an IP address", s))
		}
	}
	if c.Sandbox.HostPID && !c.Sandbox.Rootless {
		errs = append(errs, errors.New("sandbox.hostPID: only a rootless daemon may let builds see its processes; set sandbox.rootless too, or leave it out"))
	}
	if c.Sandbox.UserRemap != "" {
		errs = append(errs, c.checkUserRemap())
	}
	if c.Sandbox.Runtime != "" && !c.Sandbox.Shim() && (c.Sandbox.RuntimePath != "" || len(c.Sandbox.RuntimeOptions) > 0) {
		errs = append(errs, errors.New("sandbox.runtimePath, sandbox.runtimeOptions: these are for runtimes of containerd's; set sandbox.runtime to its name, such as io.containerd.runc.v2"))
	}
	return errors.Join(errs...)
}

// checkUserRemap refuses what can't be together with other users.
func (c *Config) checkUserRemap() error {
	for what, is := range map[string]bool{
		"a rootless daemon has no rights over other users":                   c.Sandbox.Rootless,
		"containerd's runtimes (sandbox.runtime) aren't told of other users": c.Sandbox.Shim(),
	} {
		if is {
			return fmt.Errorf("sandbox.userRemap: %s; leave userRemap out", what)
		}
	}
	return nil
}

func (l Limits) validate() error {
	var errs []error
	bytes := func(key string, s Size) {
		if s.Percent != 0 {
			errs = append(errs, fmt.Errorf("sandbox.limits.%s: give a size, not a percentage", key))
		}
	}
	bytes("memory", l.Memory)
	bytes("memorySwap", l.MemorySwap)
	for _, io := range l.IO {
		bytes("io.readBytes", io.ReadBytes)
		bytes("io.writeBytes", io.WriteBytes)
		if !filepath.IsAbs(io.Device) {
			errs = append(errs, fmt.Errorf("sandbox.limits.io.device: %q is not the path of a device", io.Device))
		}
	}
	return errors.Join(errs...)
}

func (s Snapshots) validate() error {
	if s.Enabled && !filepath.IsAbs(s.Address) {
		return fmt.Errorf("snapshots.address: %q is not the absolute path of a socket", s.Address)
	}
	if s.Root != "" && !filepath.IsAbs(s.Root) {
		return fmt.Errorf("snapshots.root: %q is not an absolute path", s.Root)
	}
	for key, path := range map[string]string{"criAddress": s.Lazy.CRIAddress, "kubeconfig": s.Lazy.Kubeconfig} {
		if path != "" && !filepath.IsAbs(path) {
			return fmt.Errorf("snapshots.lazy.%s: %q is not an absolute path", key, path)
		}
	}
	return nil
}

func (t TLS) validate() error {
	if (t.Cert == "") != (t.Key == "") {
		return errors.New("tls: cert and key belong together; give both or none")
	}
	if t.CA != "" && t.Cert == "" {
		return errors.New("tls.ca: needs tls.cert and tls.key too")
	}
	return nil
}

func oneOf[T ~string](key string, value T, allowed ...T) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	names := make([]string, len(allowed))
	for i, a := range allowed {
		names[i] = string(a)
	}
	return fmt.Errorf("%s: %q is none of %s", key, value, strings.Join(names, ", "))
}

func atLeastZero(key string, n int) error {
	if n < 0 {
		return fmt.Errorf("%s: %d is negative; 0 is no limit, or none", key, n)
	}
	return nil
}

func checkAddress(address string) error {
	scheme, rest, _ := strings.Cut(address, "://")
	switch scheme {
	case "unix":
		if !filepath.IsAbs(rest) {
			return fmt.Errorf("address: %q: the path of a socket must be absolute", address)
		}
	case "tcp":
		if _, _, err := net.SplitHostPort(rest); err != nil {
			return fmt.Errorf("address: %q: %w", address, err)
		}
	case "fd":
	default:
		return fmt.Errorf("address: %q begins with none of unix://, tcp:// and fd://", address)
	}
	return nil
}
