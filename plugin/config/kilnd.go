package config

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
)

// kilnd's settings. Each has a variable too: KILN_ and its name in capitals.
var kilnd = withVariables("KILN_", []setting[Config]{
	{flag: "root", usage: "keep everything in this `DIR`", set: text(func(c *Config) *string { return &c.Root })},
	{flag: "addr", usage: "serve the API on `URL`: unix://PATH, tcp://HOST:PORT or fd:// (repeatable)", set: texts(func(c *Config) *[]string { return &c.Addresses })},
	{flag: "group", usage: "`GROUP` that owns unix sockets", set: text(func(c *Config) *string { return &c.Group })},
	{flag: "tls-cert", usage: "certificate `FILE` for tcp addresses", set: text(func(c *Config) *string { return &c.TLS.Cert })},
	{flag: "tls-key", usage: "the certificate's key `FILE`", set: text(func(c *Config) *string { return &c.TLS.Key })},
	{flag: "tls-ca", usage: "ask clients for a certificate signed by the one in `FILE`", set: text(func(c *Config) *string { return &c.TLS.CA })},
	{flag: "debug-address", usage: "serve metrics and profiles on `HOST:PORT` or unix://PATH", set: text(func(c *Config) *string { return &c.DebugAddress })},
	{flag: "log-level", usage: "`LEVEL` of the log: error, warn, info, debug or trace", set: text(func(c *Config) *string { return &c.Log.Level })},
	{flag: "log-format", usage: "`FORMAT` of the log: text or json", set: text(func(c *Config) *string { return &c.Log.Format })},
	{flag: "step-log-size", usage: "most `BYTES` of output kept of a step; -1 for all", set: number64(func(c *Config) *int64 { return &c.Log.StepSize })},
	{flag: "step-log-speed", usage: "most `BYTES` of output kept of a step per second; -1 for all", set: number64(func(c *Config) *int64 { return &c.Log.StepSpeed })},

	{flag: "backend", usage: "use the host's containerd or an embedded one: auto, host or embedded (`NAME`)", set: text(func(c *Config) *string { return (*string)(&c.Backend) })},
	{flag: "snapshotter", usage: "`NAME` of the snapshotter to use", set: text(func(c *Config) *string { return &c.Snapshotter })},
	{flag: "name-images", usage: "keep the names of built images where the containerd is embedded (default true)", set: boolean(func(c *Config) *bool { return &c.NameImages })},
	{flag: "containerd-address", usage: "`PATH` of containerd's socket", set: text(func(c *Config) *string { return &c.Containerd.Address })},
	{flag: "containerd-namespace", usage: "containerd namespace (`NAME`) for images and layers", set: text(func(c *Config) *string { return &c.Containerd.Namespace })},
	{flag: "snapshots", usage: "serve kiln's own snapshotter to the host's containerd", set: boolean(func(c *Config) *bool { return &c.Snapshots.Enabled })},
	{flag: "snapshots-address", usage: "`PATH` of the socket that the snapshotter is served on", set: text(func(c *Config) *string { return &c.Snapshots.Address })},
	{flag: "snapshots-root", usage: "keep the snapshotter's layers in this `DIR`", set: text(func(c *Config) *string { return &c.Snapshots.Root })},

	{flag: "lazy", usage: "show layers that can be pulled lazily before they are fetched (default true)", set: boolean(func(c *Config) *bool { return &c.Snapshots.Lazy.Enabled })},
	{flag: "lazy-background-fetch", usage: "fetch the rest of lazy layers, too (default true)", set: boolean(func(c *Config) *bool { return &c.Snapshots.Lazy.BackgroundFetch })},
	{flag: "lazy-cache-size", usage: "most `SIZE` of what was fetched of lazy layers", set: size(func(c *Config) *Size { return &c.Snapshots.Lazy.CacheSize })},

	{flag: "label", usage: "label of the worker, `KEY=VALUE` (repeatable)", set: listedPairs(func(c *Config) *map[string]string { return &c.Labels })},
	{flag: "platform", usage: "`PLATFORM` to offer instead of those found (repeatable)", set: texts(func(c *Config) *[]string { return &c.Platforms })},
	{flag: "entitlement", usage: "let builds ask for `NAME`: network.host, security.insecure or device (repeatable)", set: texts(func(c *Config) *[]string { return &c.Entitlements })},

	{flag: "runtime", usage: "`NAME` or path of the OCI runtime that starts processes", set: text(func(c *Config) *string { return &c.Sandbox.Runtime })},
	{flag: "init", usage: "`PATH` of kiln-init, which starts processes if no runtime is named", set: text(func(c *Config) *string { return &c.Sandbox.Init })},
	{flag: "max-parallelism", usage: "most steps that run at once (`N`); 0 is no limit", set: number(func(c *Config) *int { return &c.Sandbox.MaxParallelism })},
	{flag: "cgroup-parent", usage: "`CGROUP` for the processes of builds", set: text(func(c *Config) *string { return &c.Sandbox.CgroupParent })},
	{flag: "apparmor-profile", usage: "AppArmor profile (`NAME`) for the processes of builds", set: text(func(c *Config) *string { return &c.Sandbox.AppArmor })},
	{flag: "user-remap", usage: "run the processes of builds as the subordinate users of `USER`, or as INSIDE:HOST:SIZE,…", set: text(func(c *Config) *string { return &c.Sandbox.UserRemap })},
	{flag: "setup-cgroup", usage: "move the processes of the container that the daemon is in into a cgroup below its root, so that there can be others", set: boolean(func(c *Config) *bool { return &c.Sandbox.SetupCgroup })},
	{flag: "selinux", usage: "label the processes of builds for SELinux", set: boolean(func(c *Config) *bool { return &c.Sandbox.SELinux })},
	{flag: "rootless", usage: "run in a user namespace without the rights of root", set: boolean(func(c *Config) *bool { return &c.Sandbox.Rootless })},
	{flag: "host-pid", usage: "let the processes of builds see those of the daemon; only when rootless", set: boolean(func(c *Config) *bool { return &c.Sandbox.HostPID })},

	{flag: "cdi-disabled", usage: "give builds no devices of the host", set: boolean(func(c *Config) *bool { return &c.CDI.Disabled })},
	{flag: "cdi-spec-dir", usage: "`DIR` with CDI descriptions of devices (repeatable)", set: texts(func(c *Config) *[]string { return &c.CDI.SpecDirs })},

	{flag: "network", usage: "network `MODE` of the processes of builds: auto, host, bridge, cni or cni-or-host", set: text(func(c *Config) *string { return &c.Network.Mode })},
	{flag: "cni-config", usage: "CNI network list `FILE` for network mode cni", set: text(func(c *Config) *string { return &c.Network.CNIConfig })},
	{flag: "cni-bin-dir", usage: "`DIR` of CNI plugins", set: text(func(c *Config) *string { return &c.Network.CNIBinDir })},
	{flag: "bridge-name", usage: "`NAME` of the bridge of network mode bridge; one is chosen if none is given", set: text(func(c *Config) *string { return &c.Network.BridgeName })},
	{flag: "bridge-subnet", usage: "`ADDRESS/BITS` of that bridge's networks; they are chosen if none are given", set: text(func(c *Config) *string { return &c.Network.BridgeSubnet })},
	{flag: "proxy-network", usage: "let the processes of builds fetch only through a proxy, which records that", set: boolean(func(c *Config) *bool { return &c.Network.Proxy })},
	{flag: "dns", usage: "`ADDRESS` of a name server for builds (repeatable)", set: texts(func(c *Config) *[]string { return &c.DNS.Nameservers })},
	{flag: "certs-dir", usage: "`DIR` with hosts.toml or certificates of registries (repeatable)", set: texts(func(c *Config) *[]string { return &c.CertsDirs })},

	{flag: "gc", usage: "remove what was not used for long when the disk fills up (default true)", set: boolean(func(c *Config) *bool { return &c.GC.Enabled })},
	{flag: "gc-reserved-space", usage: "`SIZE` of cache that is never removed: bytes, 10GB or 10%", set: size(func(c *Config) *Size { return &c.GC.ReservedSpace })},
	{flag: "gc-max-used-space", usage: "most `SIZE` of cache", set: size(func(c *Config) *Size { return &c.GC.MaxUsedSpace })},
	{flag: "gc-min-free-space", usage: "`SIZE` of the disk to leave free", set: size(func(c *Config) *Size { return &c.GC.MinFreeSpace })},
	{flag: "history-max-age", usage: "keep records of builds for this `DURATION`, such as 48h", set: duration(func(c *Config) *Duration { return &c.History.MaxAge })},
	{flag: "history-max-entries", usage: "keep this many (`N`) records of builds whatever their age; 0 records nothing", set: number(func(c *Config) *int { return &c.History.MaxEntries })},
})

func withVariables(prefix string, settings []setting[Config]) []setting[Config] {
	for i := range settings {
		settings[i].env = prefix + strings.ToUpper(strings.ReplaceAll(settings[i].flag, "-", "_"))
	}
	return settings
}

// configFlag is the flag that has no key in the file.
func configFlag() (*pflag.FlagSet, *string) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	return flags, flags.String("config", "", "read settings from the TOML `FILE`")
}

func parseKilnd(args []string, env Environment) (Config, error) {
	c := Default(env)
	extra, file := configFlag()
	flags, err := parseFlags(kilnd, extra, args)
	if err != nil {
		return c, err
	}
	name := env.get("KILN_CONFIG", *file)
	if *file != "" {
		name = *file
	}
	if err := readKilndFile(&c, name, env); err != nil {
		return c, err
	}
	return c, apply(&c, kilnd, flags, env)
}

// readKilndFile reads the file with the given name, which must exist, or the
// usual one, which need not.
func readKilndFile(c *Config, name string, env Environment) error {
	usual := name == ""
	if usual {
		name = filepath.Join(env.paths("kiln").config, "config.toml")
	}
	unknown, err := readFile(name, c)
	if err != nil {
		if usual && isMissing(err) {
			return nil
		}
		return err
	}
	if len(unknown) > 0 {
		return fmt.Errorf("configuration: %s: unknown keys: %s; config.toml.example has all there are", name, strings.Join(unknown, ", "))
	}
	return nil
}

const kilndHelp = `kilnd builds container images. It serves the API of BuildKit.

Usage: kilnd [FLAGS]

Each flag has an environment variable, such as KILN_LOG_LEVEL for --log-level,
and a key in the configuration file. Flags go before variables, and these before
the file.

Flags:
`
