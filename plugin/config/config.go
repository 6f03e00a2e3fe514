// Package config says how the daemon is to run, as its command line, the
// environment and a TOML file ask for it: a flag goes before an environment
// variable, that before the file, and that before the default.
//
// [Parse] reads kilnd's own settings, or, where the program was called by the
// name of buildkitd, those of buildkitd. Both lead to the same [Config].
package config

import (
	"path/filepath"
	"strings"
	"time"
)

// Backend is where the engine's containerd is.
type Backend string

const (
	// BackendAuto is BackendHost where a containerd answers, else
	// BackendEmbedded.
	BackendAuto Backend = "auto"
	// BackendHost is the containerd of this machine.
	BackendHost Backend = "host"
	// BackendEmbedded is containerd's libraries in the daemon's own process.
	BackendEmbedded Backend = "embedded"
)

// Config is how the daemon runs. Its TOML keys are those of kilnd's file.
type Config struct {
	// Root is a folder of the daemon's own.
	Root string `toml:"root"`
	// Addresses are what the API is served on: unix://PATH, tcp://HOST:PORT, or
	// fd:// for a socket that systemd passes.
	Addresses []string `toml:"address"`
	// DebugAddress serves metrics and profiles over HTTP, without any
	// authentication: HOST:PORT or unix://PATH; "" is not at all.
	DebugAddress string `toml:"debugAddress"`
	// User and Group are the names or numbers of who owns unix sockets; "" is
	// that of the process.
	User  string `toml:"user"`
	Group string `toml:"group"`
	TLS   TLS    `toml:"tls"`
	Log   Log    `toml:"log"`

	Backend Backend `toml:"backend"`
	// Snapshotter is the name of a containerd snapshotter; "" is the one the
	// backend prefers.
	Snapshotter string `toml:"snapshotter"`
	// NameImages: images that builds export keep their names in an embedded
	// containerd. In the host's they always do.
	NameImages bool       `toml:"nameImages"`
	Containerd Containerd `toml:"containerd"`
	Snapshots  Snapshots  `toml:"snapshots"`

	// Labels are added to the worker's, Platforms replace those found.
	Labels    map[string]string `toml:"labels"`
	Platforms []string          `toml:"platforms"`
	// PlatformsMaxAge is how long the emulators that were found count as those
	// that there are; negative is for ever.
	PlatformsMaxAge Duration `toml:"platformsCacheMaxAge"`
	// Entitlements are what builds may ask for.
	Entitlements []string `toml:"entitlements"`

	Sandbox Sandbox `toml:"sandbox"`
	CDI     CDI     `toml:"cdi"`
	Network Network `toml:"network"`
	DNS     DNS     `toml:"dns"`

	// Registries are by host and port, as image references have them.
	Registries map[string]Registry `toml:"registry"`
	// CertsDirs hold a folder for each registry with a hosts.toml or
	// certificates, as containerd and nerdctl use them.
	CertsDirs []string `toml:"certsDirs"`

	GC        GC        `toml:"gc"`
	History   History   `toml:"history"`
	Frontends Frontends `toml:"frontend"`
}

// TLS protects tcp addresses. With CA, clients need a certificate that it
// signed.
type TLS struct {
	Cert string `toml:"cert"`
	Key  string `toml:"key"`
	CA   string `toml:"ca"`
}

// Log is about the daemon's own log, and how much output of a build's step is
// kept for clients.
type Log struct {
	// Format is text or json.
	Format string `toml:"format"`
	// Level is error, warn, info, debug or trace.
	Level string `toml:"level"`
	// StepSize bounds the output of each stream of a step in bytes, StepSpeed
	// in bytes per second; -1 is no bound.
	StepSize  int64 `toml:"stepSize"`
	StepSpeed int64 `toml:"stepSpeed"`
}

// Containerd is that of BackendHost.
type Containerd struct {
	// Address is the path of its socket.
	Address   string `toml:"address"`
	Namespace string `toml:"namespace"`
}

// Snapshots is kiln's own snapshotter, a plugin of the host's containerd.
type Snapshots struct {
	Enabled bool `toml:"enabled"`
	// Address is the path of the socket that it is served on.
	Address string `toml:"address"`
	// Root is a folder of its own; "" is one in the daemon's.
	Root string `toml:"root"`
	Lazy Lazy   `toml:"lazy"`
}

// Lazy is about layers of the snapshotter whose files are fetched when they are
// read.
type Lazy struct {
	Enabled bool `toml:"enabled"`
	// BackgroundFetch fetches, too, what nobody reads.
	BackgroundFetch bool `toml:"backgroundFetch"`
	// PrefetchSize is what is fetched of each layer before it is used; a layer
	// may say better.
	PrefetchSize Size `toml:"prefetchSize"`
	// CacheSize bounds what was fetched; 0 is no bound.
	CacheSize    Size     `toml:"cacheSize"`
	MountTimeout Duration `toml:"mountTimeout"`
	FetchTimeout Duration `toml:"fetchTimeout"`
	// DockerConfig looks for credentials in Docker's file, Kubeconfig, a path, in
	// the secrets of a cluster.
	DockerConfig bool   `toml:"dockerConfig"`
	Kubeconfig   string `toml:"kubeconfig"`
	// CRIAddress is the path of a socket for kubelets, whose credentials are used.
	CRIAddress string `toml:"criAddress"`
}

// Sandbox is about the processes of builds.
type Sandbox struct {
	// Runtime is what starts processes: the name or path of an OCI runtime, or
	// the name of one of containerd's, "io.containerd…". "" is Init, and for what
	// that can't do the first OCI runtime found of the usual ones.
	Runtime string `toml:"runtime"`
	// RuntimePath is the path of the program of a runtime of containerd's, ""
	// for containerd to find it; RuntimeOptions are what that takes.
	RuntimePath    string         `toml:"runtimePath"`
	RuntimeOptions map[string]any `toml:"runtimeOptions"`
	// Init is the path of kiln-init; "" is to look for it.
	Init string `toml:"init"`
	// MaxParallelism bounds how many steps run at once; 0 is no bound.
	MaxParallelism int    `toml:"maxParallelism"`
	CgroupParent   string `toml:"cgroupParent"`
	AppArmor       string `toml:"apparmorProfile"`
	// UserRemap says who the users of processes are on the host: "" are the same,
	// NAME has its subordinate ids, INSIDE:HOST:SIZE,… are ranges.
	UserRemap string `toml:"userRemap"`
	// SELinux labels processes and their mounts.
	SELinux bool `toml:"selinux"`
	// SetupCgroup moves the processes in the root of cgroup v2 into a cgroup below it:
	// for a daemon that has a container of its own.
	SetupCgroup bool `toml:"setupCgroup"`
	// Limits hold for every process; steps may ask for less.
	Limits Limits `toml:"limits"`
	// Rootless is for a daemon inside a user namespace.
	Rootless bool `toml:"rootless"`
	// HostPID lets processes see those of the daemon; for a rootless daemon
	// that may not mount /proc.
	HostPID bool `toml:"hostPID"`
}

// Shim tells whether Runtime is one of containerd's.
func (s Sandbox) Shim() bool { return strings.HasPrefix(s.Runtime, "io.containerd.") }

// Limits are what a process of a build and its children may use; zero values are
// no limit.
type Limits struct {
	// Memory and MemorySwap (both together) can't be percentages.
	Memory     Size `toml:"memory"`
	MemorySwap Size `toml:"memorySwap"`
	// CPUShares is a weight relative to 1024; CPUPeriod and CPUQuota are in
	// microseconds.
	CPUShares int64  `toml:"cpuShares"`
	CPUPeriod int64  `toml:"cpuPeriod"`
	CPUQuota  int64  `toml:"cpuQuota"`
	CPUs      string `toml:"cpus"`
	Mems      string `toml:"mems"`
	Pids      int64  `toml:"pids"`
	// IOWeight is from 10 to 1000.
	IOWeight int64     `toml:"ioWeight"`
	IO       []IOLimit `toml:"io"`
}

// IOLimit bounds what is done with a disk per second.
type IOLimit struct {
	// Device is a block device's path.
	Device     string `toml:"device"`
	ReadBytes  Size   `toml:"readBytes"`
	WriteBytes Size   `toml:"writeBytes"`
	ReadOps    uint64 `toml:"readOps"`
	WriteOps   uint64 `toml:"writeOps"`
}

// CDI is about devices of the host that builds may ask for.
type CDI struct {
	Disabled bool `toml:"disabled"`
	// SpecDirs are folders with descriptions of devices. They need not exist.
	SpecDirs []string `toml:"specDirs"`
	// AutoAllowed are names of devices, or of their kinds, that builds may use
	// without asking.
	AutoAllowed []string `toml:"autoAllowed"`
}

// Network is that of processes that ask for none in particular.
type Network struct {
	// Mode is auto, host, bridge, cni, or cni-or-host: what auto is without the
	// bridge.
	Mode      string `toml:"mode"`
	CNIConfig string `toml:"cniConfig"`
	CNIBinDir string `toml:"cniBinDir"`
	PoolSize  int    `toml:"poolSize"`
	// BridgeName and BridgeSubnet are chosen where they are empty.
	BridgeName   string `toml:"bridgeName"`
	BridgeSubnet string `toml:"bridgeSubnet"`
	// Proxy: processes reach this network, and the host's if they ask for that,
	// through a proxy that records what they fetch.
	Proxy bool `toml:"proxy"`
}

// DNS replaces what the host's resolv.conf says, where it is not empty.
type DNS struct {
	Nameservers   []string `toml:"nameservers"`
	Options       []string `toml:"options"`
	SearchDomains []string `toml:"searchDomains"`
}

// Registry is how one registry is spoken to.
type Registry struct {
	// Mirrors are asked before the registry itself, in this order.
	Mirrors []string `toml:"mirrors"`
	// HTTP is plain HTTP; Insecure does not verify certificates. Both together
	// try HTTPS first. nil is what the host's name suggests.
	HTTP     *bool     `toml:"http"`
	Insecure *bool     `toml:"insecure"`
	CA       []string  `toml:"ca"`
	KeyPairs []KeyPair `toml:"keypair"`
	// TLSConfigDirs hold *.crt, *.cert and *.key as Docker uses them.
	TLSConfigDirs []string `toml:"tlsconfigdir"`
}

// KeyPair is a client certificate and its key, as files.
type KeyPair struct {
	Key  string `toml:"key"`
	Cert string `toml:"cert"`
}

// History says how long records of builds are kept: those beyond both bounds
// are removed. With MaxEntries 0 nothing is recorded.
type History struct {
	MaxAge     Duration `toml:"maxAge"`
	MaxEntries int      `toml:"maxEntries"`
}

// Frontends says what builds may use to make a graph.
type Frontends struct {
	Dockerfile bool `toml:"dockerfile"`
	Gateway    bool `toml:"gateway"`
	// GatewayRepositories, where there are any, are the only ones that images of
	// frontends may come from.
	GatewayRepositories []string `toml:"gatewayRepositories"`
}

// paths are the defaults that depend on who runs the daemon.
type paths struct {
	data, run, config string
}

// Default is kilnd's configuration where nothing is configured.
func Default(env Environment) Config {
	p := env.paths("kiln")
	return Config{
		Root:            p.data,
		Addresses:       []string{"unix://" + filepath.Join(p.run, "kilnd.sock")},
		Log:             Log{Format: "text", Level: "info", StepSize: 2 << 20, StepSpeed: 200 << 10},
		PlatformsMaxAge: Duration{20 * time.Second},
		Backend:         BackendAuto,
		NameImages:      true,
		Containerd:      Containerd{Address: "/run/containerd/containerd.sock", Namespace: "default"},
		Snapshots: Snapshots{Address: filepath.Join(p.run, "snapshotter.sock"), Lazy: Lazy{
			Enabled: true, BackgroundFetch: true, CacheSize: Size{Percent: 10}, DockerConfig: true,
			MountTimeout: Duration{20 * time.Second}, FetchTimeout: Duration{time.Minute},
		}},
		Sandbox:    Sandbox{Rootless: env.UserNamespace},
		CDI:        CDI{SpecDirs: []string{"/etc/cdi", "/var/run/cdi", filepath.Join(p.config, "cdi")}},
		Network:    Network{Mode: "auto", CNIConfig: "/etc/cni/net.d/kiln.conflist", CNIBinDir: "/opt/cni/bin", PoolSize: 2},
		Registries: map[string]Registry{},
		CertsDirs:  []string{"/etc/containerd/certs.d", "/etc/docker/certs.d"},
		Labels:     map[string]string{},
		GC:         GC{Enabled: true},
		History:    History{MaxAge: Duration{48 * time.Hour}, MaxEntries: 50},
		Frontends:  Frontends{Dockerfile: true, Gateway: true},
	}
}
