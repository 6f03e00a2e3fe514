package sandbox

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	seccompsupport "github.com/containerd/containerd/v2/pkg/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// baseline is what every sandboxed process gets, made once: containerd's defaults,
// which are Docker's, so that they are maintained in one place. Nothing in it may
// be changed; specs refer to it.
type baseline struct {
	caps     []string
	allCaps  []string // those this process has, for Insecure
	masked   []string
	readonly []string
	mounts   []specs.Mount
	devices  []specs.LinuxDeviceCgroup
	seccomp  *specs.LinuxSeccomp // nil where the kernel has none
	cgroupNS bool
}

func newBaseline(ctx context.Context) (*baseline, error) {
	ctx = namespaces.WithNamespace(ctx, "kiln")
	spec, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: "baseline"})
	if err != nil {
		return nil, fmt.Errorf("default runtime spec: %w", err)
	}
	all, err := cap.Current()
	if err != nil {
		return nil, fmt.Errorf("capabilities of this process: %w", err)
	}
	b := &baseline{
		caps:     spec.Process.Capabilities.Bounding,
		allCaps:  all,
		masked:   spec.Linux.MaskedPaths,
		readonly: spec.Linux.ReadonlyPaths,
		devices:  spec.Linux.Resources.Devices,
		cgroupNS: hasCgroupNamespaces(),
	}
	for _, m := range spec.Mounts {
		if m.Destination != "/run" { // images have files there
			b.mounts = append(b.mounts, m)
		}
	}
	if seccompsupport.IsEnabled() {
		b.seccomp = withoutX32(seccomp.DefaultProfile(spec))
	}
	return b, nil
}

// withoutX32 takes x32 from a filter: no distribution's kernel runs it unasked, and
// the runtime spends a quarter of a short run's time on its rules.
func withoutX32(p *specs.LinuxSeccomp) *specs.LinuxSeccomp {
	p.Architectures = slices.DeleteFunc(p.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
	return p
}

// hasCgroupNamespaces is false on cgroup v1, where a hierarchy with an unusual name
// makes the mount of a cgroup namespace fail.
func hasCgroupNamespaces() bool {
	if _, err := os.Stat("/proc/self/ns/cgroup"); err != nil {
		return false
	}
	_, err := os.Stat(cgroupRoot + "/cgroup.subtree_control")
	return err == nil
}
