package plugin

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/plugin/config"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// labelPrefix is that of the labels by which clients know what a worker is.
const labelPrefix = "org.mobyproject.buildkit.worker."

// workerLabels describe the worker. The configured ones go before them.
func workerLabels(cfg config.Config, st *store.Store) map[string]string {
	labels := map[string]string{
		labelPrefix + "executor":         "oci",
		labelPrefix + "snapshotter":      st.Snapshotter,
		labelPrefix + "network":          "host",
		labelPrefix + "oci.process-mode": "sandbox",
		labelPrefix + "selinux.enabled":  strconv.FormatBool(false),
	}
	if host, err := os.Hostname(); err == nil {
		labels[labelPrefix+"hostname"] = host
	}
	if networkMode(cfg) != "host" {
		labels[labelPrefix+"network"] = "cni"
	}
	if cfg.Sandbox.HostPID {
		labels[labelPrefix+"oci.process-mode"] = "no-sandbox"
	}
	if cfg.Sandbox.AppArmor != "" {
		labels[labelPrefix+"apparmor.profile"] = cfg.Sandbox.AppArmor
	}
	if st.Host != nil {
		labels[labelPrefix+"executor"] = "containerd"
		labels[labelPrefix+"containerd.uuid"] = st.Host.UUID
		labels[labelPrefix+"containerd.namespace"] = st.Namespace
	}
	maps.Copy(labels, cfg.Labels)
	return labels
}

// workerPlatforms are the configured ones, or what this machine can run, its
// own first.
func workerPlatforms(configured []string) ([]ocispec.Platform, error) {
	if len(configured) == 0 {
		own := platforms.Normalize(platforms.DefaultSpec())
		return append([]ocispec.Platform{own}, emulated("/proc/sys/fs/binfmt_misc", own)...), nil
	}
	var all []ocispec.Platform
	for _, s := range configured {
		p, err := platforms.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("platforms: %w", err)
		}
		all = append(all, platforms.Normalize(p))
	}
	return all, nil
}

// emulators are the names of QEMU's user-mode emulators.
var emulators = map[string]string{
	"qemu-aarch64":     "linux/arm64",
	"qemu-arm":         "linux/arm/v7",
	"qemu-i386":        "linux/386",
	"qemu-loongarch64": "linux/loong64",
	"qemu-mips64":      "linux/mips64",
	"qemu-mips64el":    "linux/mips64le",
	"qemu-ppc64le":     "linux/ppc64le",
	"qemu-riscv64":     "linux/riscv64",
	"qemu-s390x":       "linux/s390x",
	"qemu-x86_64":      "linux/amd64",
}

// emulated are the platforms whose programs the kernel gives to an emulator
// that it holds open, so that it is found in any root.
func emulated(binfmt string, own ocispec.Platform) []ocispec.Platform {
	var all []ocispec.Platform
	for _, name := range slices.Sorted(maps.Keys(emulators)) {
		data, err := os.ReadFile(filepath.Join(binfmt, name))
		if err != nil || !opensAnywhere(string(data)) {
			continue
		}
		p := platforms.Normalize(platforms.MustParse(emulators[name]))
		if !platforms.Only(own).Match(p) || p.Architecture != own.Architecture {
			all = append(all, p)
		}
	}
	return all
}

// opensAnywhere reads the state of an entry of binfmt_misc.
func opensAnywhere(entry string) bool {
	if !strings.HasPrefix(entry, "enabled") {
		return false
	}
	for line := range strings.Lines(entry) {
		if flags, ok := strings.CutPrefix(line, "flags:"); ok {
			return strings.Contains(flags, "F")
		}
	}
	return false
}
