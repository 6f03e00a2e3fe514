package builder

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/sandbox/device"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/entitlements"
)

// permissions are what a build may do beyond the usual.
type permissions struct {
	granted entitlements.Set
	devices *device.Devices
}

// grant gives the entitlements that a request asks for, if the builder's configuration
// allows all of them.
func (b *Builder) grant(asked []string) (permissions, error) {
	set, err := entitlements.WhiteList(named(asked), named(b.cfg.Entitlements))
	return permissions{granted: set, devices: b.cfg.Devices}, err
}

func named(names []string) []entitlements.Entitlement {
	all := make([]entitlements.Entitlement, len(names)) // nil would be no filter
	for i, n := range names {
		all[i] = entitlements.Entitlement(n)
	}
	return all
}

// check checks that a step uses only what was granted.
func (p permissions) check(op *pb.Op) error {
	_, err := p.use(op)
	return err
}

// use checks that a step uses only what was granted, and gives the full names of the
// devices that it gets.
func (p permissions) use(op *pb.Op) (devices []string, _ error) {
	e := op.GetExec()
	if e == nil {
		return nil, nil
	}
	for _, c := range []struct {
		used bool
		what entitlements.Entitlement
	}{
		{e.Network == pb.NetMode_HOST, entitlements.EntitlementNetworkHost},
		{e.Security == pb.SecurityMode_INSECURE, entitlements.EntitlementSecurityInsecure},
	} {
		if c.used && !p.granted.Allowed(c.what) {
			return nil, fmt.Errorf("%s is not allowed: ask for it with --allow %s: %w", c.what, c.what, errdefs.ErrPermissionDenied)
		}
	}
	return p.find(e)
}

// find gives the full names of the devices that a step asks for, without the optional
// ones that are not there. It fails if one is not allowed.
func (p permissions) find(e *pb.ExecOp) ([]string, error) {
	if len(e.CdiDevices) == 0 {
		return nil, nil
	}
	cfg, _ := p.granted[entitlements.EntitlementDevice].(*entitlements.DevicesConfig)
	if cfg == nil {
		cfg = &entitlements.DevicesConfig{}
	}
	allowed := p.allowed(cfg)
	var names, forbidden []string
	for _, d := range e.CdiDevices {
		if d == nil {
			continue
		}
		name := d.Name
		if real := cfg.Devices[name]; real != "" {
			name = real // d.Name is an alias
			allowed[name] = true
		}
		found, err := p.devices.Find(name)
		if err != nil && !d.Optional {
			return nil, err
		}
		for _, f := range found {
			if cfg.All || f.AutoAllow || allowed[f.Name] || allowed[name] {
				names = append(names, f.Name)
			} else {
				forbidden = append(forbidden, f.Name)
			}
		}
	}
	if len(forbidden) > 0 {
		plural := map[bool]string{true: "device %s is", false: "devices %s are"}[len(forbidden) == 1]
		return nil, fmt.Errorf(plural+" requested by the build but not allowed: ask for it with --allow device=NAME: %w",
			strings.Join(forbidden, ", "), errdefs.ErrPermissionDenied)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// allowed are the devices that were granted by name.
func (p permissions) allowed(cfg *entitlements.DevicesConfig) map[string]bool {
	allowed := map[string]bool{}
	for name, real := range cfg.Devices {
		if real != "" {
			continue // an alias allows itself
		}
		found, _ := p.devices.Find(name) //nolint:errcheck // what isn't there need not be allowed
		for _, f := range found {
			allowed[f.Name] = true
		}
	}
	return allowed
}
