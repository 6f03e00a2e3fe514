package config

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
)

// config says in kilnd's words what buildkitd was asked for.
func (f *bkFile) config(env Environment) (Config, error) {
	c := Default(env)
	w, err := f.useWorker(&c, env)
	if err != nil {
		return c, err
	}
	c.Root, c.Addresses, c.DebugAddress, c.TLS = f.Root, f.GRPC.Address, f.GRPC.DebugAddress, f.GRPC.TLS
	if f.GRPC.UID != nil {
		c.User = strconv.Itoa(*f.GRPC.UID)
	}
	c.Group = f.GRPC.Group
	if c.Group == "" && f.GRPC.GID != nil {
		c.Group = strconv.Itoa(*f.GRPC.GID)
	}
	c.Log = Log{Format: f.Log.Format, Level: f.logLevel(), StepSize: f.StepLogSize, StepSpeed: f.StepLogSpeed}
	if c.Log.Format == "" {
		c.Log.Format = "text"
	}
	c.Entitlements, c.DNS, c.Registries, c.CertsDirs = f.Entitlements, f.DNS, f.Registries, nil
	if age := f.System.PlatformsCacheMaxAge; age != nil {
		c.PlatformsMaxAge = *age
	}
	c.Labels, c.Platforms = maps.Clone(w.Labels), w.Platforms
	c.Sandbox.MaxParallelism, c.Sandbox.CgroupParent, c.Sandbox.AppArmor = w.MaxParallelism, w.CgroupParent, w.AppArmor
	c.Sandbox.Rootless, c.Sandbox.SELinux = w.Rootless, w.SELinux
	c.Sandbox.SetupCgroup, _ = strconv.ParseBool(env.get("BUILDKIT_SETUP_CGROUPV2_ROOT", ""))
	c.CDI = CDI{Disabled: enabled(f.CDI.Disabled, false), SpecDirs: f.CDI.SpecDirs, AutoAllowed: f.CDI.AutoAllowed}
	if len(c.CDI.SpecDirs) == 0 {
		c.CDI.SpecDirs = []string{"/etc/cdi", "/var/run/cdi", filepath.Join(env.paths("buildkit").config, "cdi")}
	}
	c.Network = Network{
		Mode: w.NetworkMode, CNIConfig: w.CNIConfigPath, CNIBinDir: w.CNIBinaryPath,
		PoolSize: w.CNIPoolSize, BridgeName: w.BridgeName, BridgeSubnet: w.BridgeSubnet,
		Proxy: f.ProxyNetwork,
	}
	if c.Network.Mode == "auto" {
		c.Network.Mode = "cni-or-host"
		if bridge, _ := strconv.ParseBool(env.get("BUILDKIT_NETWORK_BRIDGE_AUTO", "")); bridge {
			c.Network.Mode = "bridge"
		}
	}
	c.GC = w.gc()
	f.history(&c.History)
	f.frontends(&c.Frontends)
	return c, f.refused()
}

// useWorker takes the worker that buildkitd would use, the OCI worker first.
func (f *bkFile) useWorker(c *Config, env Environment) (*bkWorker, error) {
	oci, ctd := &f.Worker.OCI, &f.Worker.Containerd
	c.Containerd = Containerd{Address: ctd.Address, Namespace: ctd.Namespace}
	switch {
	case enabled(oci.Enabled, env.HasProgram("buildkit-runc") || env.HasProgram("runc") || env.HasProgram(oci.Binary)):
		c.Backend, c.NameImages = BackendEmbedded, false
		c.Snapshotter = oci.Snapshotter
		c.Sandbox.Runtime, c.Sandbox.HostPID, c.Sandbox.UserRemap = oci.Binary, oci.NoProcessSandbox, oci.UserRemap
		return &oci.bkWorker, nil
	case enabled(ctd.Enabled, true):
		c.Backend = BackendHost
		c.Snapshotter = ctd.Snapshotter
		c.Sandbox.Runtime, c.Sandbox.RuntimePath, c.Sandbox.RuntimeOptions = ctd.Runtime.Name, ctd.Runtime.Path, ctd.Runtime.Options
		if c.Sandbox.Runtime == "" && (ctd.Runtime.Path != "" || len(ctd.Runtime.Options) > 0) {
			c.Sandbox.Runtime = "io.containerd.runc.v2"
		}
		return &ctd.bkWorker, nil
	}
	return nil, errors.New("no worker is enabled; set --oci-worker=true, with runc installed, or --containerd-worker=true")
}

func enabled(set *bool, found bool) bool {
	if set == nil {
		return found
	}
	return *set
}

func (f *bkFile) logLevel() string {
	switch {
	case f.Log.Level == "warning":
		return "warn"
	case f.Log.Level != "":
		return f.Log.Level
	case f.Trace:
		return "trace"
	case f.Debug:
		return "debug"
	}
	return "info"
}

func (w *bkWorker) gc() GC {
	g := GC{Enabled: w.GC == nil || *w.GC, ReservedSpace: w.ReservedSpace, MaxUsedSpace: w.MaxUsedSpace, MinFreeSpace: w.MinFreeSpace}
	if (g.ReservedSpace == Size{} && g.MaxUsedSpace == Size{} && g.MinFreeSpace == Size{}) {
		g.ReservedSpace = w.KeepStorage
	}
	for _, p := range w.GCPolicy {
		if (p.ReservedSpace == Size{}) {
			p.ReservedSpace = p.KeepBytes
		}
		g.Policies = append(g.Policies, p.GCPolicy)
	}
	return g
}

func (f *bkFile) history(h *History) {
	if f.History.MaxAge != nil {
		h.MaxAge = *f.History.MaxAge
	}
	if f.History.MaxEntries != nil {
		h.MaxEntries = *f.History.MaxEntries
	}
}

func (f *bkFile) frontends(to *Frontends) {
	to.Dockerfile = enabled(f.Frontend.Dockerfile.Enabled, true)
	to.Gateway = enabled(f.Frontend.Gateway.Enabled, true)
	to.GatewayRepositories = f.Frontend.Gateway.AllowedRepositories
}

// refused says what can't be left out without less protection, or a different
// result, than was asked for.
func (f *bkFile) refused() error {
	for _, c := range []struct {
		set  bool
		what string
	}{
		{f.Worker.OCI.ProxySnapshotterPath != "", "worker.oci.proxySnapshotterPath: an external snapshotter is used through containerd; add it to containerd's configuration as a proxy plugin and use the containerd worker"},
	} {
		if c.set {
			return errors.New(c.what)
		}
	}
	return nil
}

// withoutEffect names what was set and changes nothing: it is for traces, provenance,
// and a snapshotter that are not part of this daemon.
func (f *bkFile) withoutEffect() []string {
	var out []string
	for _, c := range []struct {
		set bool
		key string
	}{
		{f.OTel.SocketPath != "", "otel.socketPath"},
		{f.ProvenanceEnvDir != "", "provenanceEnvDir"},
		{f.SaveCacheDebug, "save-cache-debug"},
		{len(f.Worker.OCI.Stargz) > 0, "worker.oci.stargzSnapshotter"},
	} {
		if c.set {
			out = append(out, fmt.Sprintf("setting %s has no effect", c.key))
		}
	}
	return out
}
