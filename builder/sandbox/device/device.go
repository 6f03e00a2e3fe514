// Package device finds devices of the host by the names that the Container Device
// Interface gives them, and adds them to what an OCI runtime runs.
//
// A device is described by a file that its vendor or an administrator has put into
// one of some directories; the files are read anew whenever they are asked about.
package device

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"
)

// The annotations by which a description says more than the interface foresees:
// another name for a group of devices, and that builds need not be allowed to use one.
const (
	classAnnotation     = "org.mobyproject.buildkit.device.class"
	autoAllowAnnotation = "org.mobyproject.buildkit.device.autoallow"
)

// Config says where devices are described and which of them every build may use: by
// their names, or by those of their kinds.
type Config struct {
	Dirs        []string
	AutoAllowed []string
}

// Device is one that is described.
type Device struct {
	// Name is VENDOR/CLASS=NAME.
	Name string
	// AutoAllow: builds need not be allowed to use it.
	AutoAllow   bool
	Annotations map[string]string
}

// Devices are those that the directories describe. A nil *Devices has none, and
// says that they are disabled. It is safe for concurrent use.
type Devices struct {
	cfg   Config
	cache *cdi.Cache
}

// Open begins to use the directories, which need not be there.
func Open(cfg Config) (*Devices, error) {
	cache, err := cdi.NewCache(cdi.WithSpecDirs(cfg.Dirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return nil, fmt.Errorf("CDI devices: %w", err)
	}
	return &Devices{cfg: cfg, cache: cache}, nil
}

// List gives all devices, sorted by name. A description that can't be read describes
// none: others' devices are there nevertheless.
func (d *Devices) List() []Device {
	if d == nil {
		return nil
	}
	d.cache.Refresh() //nolint:errcheck // see above
	names := d.cache.ListDevices()
	all := make([]Device, 0, len(names))
	for _, name := range names {
		if found := d.cache.GetDevice(name); found != nil {
			annotations := maps.Clone(found.GetSpec().Annotations)
			if annotations == nil {
				annotations = map[string]string{}
			}
			maps.Copy(annotations, found.Annotations)
			all = append(all, Device{Name: name, AutoAllow: d.autoAllowed(name, annotations), Annotations: annotations})
		}
	}
	return all
}

func (d *Devices) autoAllowed(name string, annotations map[string]string) bool {
	kind, _, _ := strings.Cut(name, "=")
	if slices.Contains(d.cfg.AutoAllowed, name) || slices.Contains(d.cfg.AutoAllowed, kind) {
		return true
	}
	ok, err := strconv.ParseBool(annotations[autoAllowAnnotation])
	return err == nil && ok
}

// Find gives the devices that a name stands for: VENDOR/CLASS=NAME for one,
// VENDOR/CLASS for the first of its kind, VENDOR/CLASS=* for all of its kind, and
// otherwise, or where there are none, all whose class annotation is that name. It
// fails with errdefs.ErrNotFound if there are none at all.
func (d *Devices) Find(name string) ([]Device, error) {
	if d == nil {
		return nil, fmt.Errorf("CDI device %.200q is required, but CDI device support is disabled: %w", name, errdefs.ErrNotFound)
	}
	all := d.List()
	found := matching(all, name)
	if len(found) == 0 {
		for _, dev := range all {
			if class, ok := dev.Annotations[classAnnotation]; ok && class == name {
				found = append(found, dev)
			}
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("required device %.200q is not registered: put a CDI description of it into one of %s: %w",
			name, strings.Join(d.cfg.Dirs, ", "), errdefs.ErrNotFound)
	}
	return found, nil
}

// matching are the devices that a name of the interface's form stands for.
func matching(all []Device, name string) []Device {
	kind, which, _ := strings.Cut(name, "=")
	if vendor, _ := parser.ParseQualifier(kind); vendor == "" {
		return nil
	}
	var found []Device
	for _, dev := range all {
		k, n, _ := strings.Cut(dev.Name, "=")
		if k == kind && (which == "" || which == "*" || which == n) {
			found = append(found, dev)
		}
	}
	if which == "" && len(found) > 1 {
		found = found[:1]
	}
	return found
}

// Add adds devices, by their full names, to s: nodes, mounts, variables, hooks. What s
// refers to is not changed as long as its slices have no room to spare.
func (d *Devices) Add(s *specs.Spec, names []string) error {
	if len(names) == 0 {
		return nil
	}
	if d == nil {
		return errors.New("CDI device support is disabled")
	}
	if _, err := d.cache.InjectDevices(s, names...); err != nil {
		return fmt.Errorf("add devices %q: %w", names, err)
	}
	return nil
}
