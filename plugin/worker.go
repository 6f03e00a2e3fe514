package plugin

import (
	"fmt"
	"maps"
	"os"
	"strconv"

	"github.com/containerd/platforms"
	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/plugin/config"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// labelPrefix is that of the labels by which clients know what a worker is.
const labelPrefix = "org.mobyproject.buildkit.worker."

// workerLabels describe the worker. The configured ones go before them.
func workerLabels(cfg config.Config, st *store.Store, network networks) map[string]string {
	labels := map[string]string{
		labelPrefix + "executor":         "oci",
		labelPrefix + "snapshotter":      st.Snapshotter,
		labelPrefix + "network":          "host",
		labelPrefix + "oci.process-mode": "sandbox",
		labelPrefix + "selinux.enabled":  strconv.FormatBool(cfg.Sandbox.SELinux),
	}
	if host, err := os.Hostname(); err == nil {
		labels[labelPrefix+"hostname"] = host
	}
	if network != nil {
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

// workerPlatforms are the configured ones, or this machine's.
func workerPlatforms(configured []string) ([]ocispec.Platform, error) {
	if len(configured) == 0 {
		return []ocispec.Platform{platforms.Normalize(platforms.DefaultSpec())}, nil
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
