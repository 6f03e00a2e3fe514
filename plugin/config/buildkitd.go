package config

import (
	"fmt"
	"path/filepath"
)

// bkFile is buildkitd's configuration file. Its flags set the same fields.
type bkFile struct {
	Debug            bool     `toml:"debug"`
	Trace            bool     `toml:"trace"`
	Root             string   `toml:"root"`
	Entitlements     []string `toml:"insecure-entitlements"`
	ProxyNetwork     bool     `toml:"proxyNetwork"`
	ProvenanceEnvDir string   `toml:"provenanceEnvDir"`
	Log              struct {
		Format string `toml:"format"`
		Level  string `toml:"level"`
	} `toml:"log"`
	GRPC struct {
		Address      []string `toml:"address"`
		DebugAddress string   `toml:"debugAddress"`
		UID          *int     `toml:"uid"`
		GID          *int     `toml:"gid"`
		Group        string   `toml:"-"`
		TLS          TLS      `toml:"tls"`
	} `toml:"grpc"`
	OTel struct {
		SocketPath string `toml:"socketPath"`
	} `toml:"otel"`
	CDI struct {
		Disabled    *bool    `toml:"disabled"`
		SpecDirs    []string `toml:"specDirs"`
		AutoAllowed []string `toml:"autoAllowed"`
	} `toml:"cdi"`
	System struct {
		PlatformsCacheMaxAge *Duration `toml:"platformsCacheMaxAge"`
	} `toml:"system"`
	DNS     DNS `toml:"dns"`
	History struct {
		MaxAge     *Duration `toml:"maxAge"`
		MaxEntries *int      `toml:"maxEntries"`
	} `toml:"history"`
	Frontend struct {
		Dockerfile struct {
			Enabled *bool `toml:"enabled"`
		} `toml:"dockerfile.v0"`
		Gateway struct {
			Enabled             *bool    `toml:"enabled"`
			AllowedRepositories []string `toml:"allowedRepositories"`
		} `toml:"gateway.v0"`
	} `toml:"frontend"`
	Registries map[string]Registry `toml:"registry"`
	Worker     struct {
		OCI        bkOCI        `toml:"oci"`
		Containerd bkContainerd `toml:"containerd"`
	} `toml:"worker"`

	SaveCacheDebug bool  `toml:"-"`
	Rootless       bool  `toml:"-"`
	StepLogSize    int64 `toml:"-"`
	StepLogSpeed   int64 `toml:"-"`
}

// bkWorker is what both workers have.
type bkWorker struct {
	Enabled       *bool             `toml:"enabled"`
	Labels        map[string]string `toml:"labels"`
	Platforms     []string          `toml:"platforms"`
	Snapshotter   string            `toml:"snapshotter"`
	Rootless      bool              `toml:"rootless"`
	GC            *bool             `toml:"gc"`
	KeepStorage   Size              `toml:"gckeepstorage"`
	ReservedSpace Size              `toml:"reservedSpace"`
	MaxUsedSpace  Size              `toml:"maxUsedSpace"`
	MinFreeSpace  Size              `toml:"minFreeSpace"`
	GCPolicy      []bkPolicy        `toml:"gcpolicy"`

	NetworkMode   string `toml:"networkMode"`
	CNIConfigPath string `toml:"cniConfigPath"`
	CNIBinaryPath string `toml:"cniBinaryPath"`
	CNIPoolSize   int    `toml:"cniPoolSize"`
	BridgeName    string `toml:"bridgeName"`
	BridgeSubnet  string `toml:"bridgeSubnet"`

	AppArmor       string `toml:"apparmor-profile"`
	SELinux        bool   `toml:"selinux"`
	MaxParallelism int    `toml:"max-parallelism"`
	CgroupParent   string `toml:"defaultCgroupParent"`
}

type bkOCI struct {
	bkWorker
	NoProcessSandbox     bool           `toml:"noProcessSandbox"`
	Binary               string         `toml:"binary"`
	ProxySnapshotterPath string         `toml:"proxySnapshotterPath"`
	Stargz               map[string]any `toml:"stargzSnapshotter"`
	UserRemap            string         `toml:"userRemapUnsupported"`
}

type bkContainerd struct {
	bkWorker
	Address   string `toml:"address"`
	Namespace string `toml:"namespace"`
	Runtime   struct {
		Name    string         `toml:"name"`
		Path    string         `toml:"path"`
		Options map[string]any `toml:"options"`
	} `toml:"runtime"`
}

type bkPolicy struct {
	GCPolicy
	KeepBytes Size `toml:"keepBytes"`
}

func bkDefault(env Environment) bkFile {
	p := env.paths("buildkit")
	f := bkFile{Root: p.data, Rootless: env.UserNamespace, StepLogSize: 2 << 20, StepLogSpeed: 200 << 10}
	f.GRPC.Address = []string{"unix://" + filepath.Join(p.run, "buildkitd.sock")}
	common := bkWorker{
		Rootless:      env.UserNamespace,
		NetworkMode:   "auto",
		CNIConfigPath: "/etc/buildkit/cni.json",
		CNIBinaryPath: "/opt/cni/bin",
	}
	f.Worker.OCI.bkWorker = common
	f.Worker.Containerd.bkWorker = common
	f.Worker.Containerd.Address = "/run/containerd/containerd.sock"
	f.Worker.Containerd.Namespace = "buildkit"
	return f
}

// parseBuildkitd reads buildkitd's flags, variables and file. A file that is
// missing is the same as an empty one, and keys that mean nothing give warnings
// only: configurations outlive the versions they were made for.
func parseBuildkitd(args []string, env Environment) (Config, []string, error) {
	extra, name := configFlag()
	flags, err := parseFlags(buildkitd, extra, args)
	if err != nil {
		return Config{}, nil, err
	}
	if *name == "" {
		*name = filepath.Join(env.paths("buildkit").config, "buildkitd.toml")
	}
	f := bkDefault(env)
	unknown, err := readFile(*name, &f)
	if err != nil && !isMissing(err) {
		return Config{}, nil, err
	}
	var warnings []string
	for _, key := range unknown {
		warnings = append(warnings, fmt.Sprintf("%s: key %s is not known and has no effect", *name, key))
	}
	if err := apply(&f, buildkitd, flags, env); err != nil {
		return Config{}, nil, err
	}
	c, err := f.config(env)
	return c, append(warnings, f.withoutEffect()...), err
}

const buildkitdHelp = `buildkitd builds container images. This is kilnd, with the settings of buildkitd.

Usage: buildkitd [FLAGS]

Flags:
`
