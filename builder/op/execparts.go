package op

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/kiln-build/kiln/builder/cache"
	"github.com/moby/buildkit/solver/pb"
)

// parts are what the key of an exec is made of, for explanations: what is
// not set is left out, and what is long is in parts of its own.
func (e *Exec) parts(platform string) []cache.Part {
	op := e.exec
	parts := []cache.Part{
		{Name: "command", Value: strings.Join(op.Meta.Args, " ")},
		{Name: "directory", Value: op.Meta.Cwd},
		{Name: "platform", Value: platform},
	}
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, cache.Part{Name: name, Value: value})
		}
	}
	add("user", op.Meta.User)
	for _, v := range op.Meta.Env {
		name, value, _ := strings.Cut(v, "=")
		add("variable "+name, value)
	}
	for _, s := range op.Secretenv {
		add("secret variable "+s.GetName(), s.GetID())
	}
	for _, m := range canonicalExec(op).Mounts {
		add("mount "+m.Dest, mountPart(m))
	}
	if op.Network != pb.NetMode_UNSET {
		add("network", strings.ToLower(op.Network.String()))
	}
	if op.Security != pb.SecurityMode_SANDBOX {
		add("security", strings.ToLower(op.Security.String()))
	}
	if e.step.Proxied {
		add("proxy", strings.TrimSpace("yes "+e.grants.Policy))
	}
	add("devices", strings.Join(e.grants.Devices, " "))
	var hosts []string
	for _, h := range op.Meta.ExtraHosts {
		hosts = append(hosts, h.GetHost())
	}
	slices.Sort(hosts)
	add("hosts", strings.Join(hosts, " "))
	add("host name", op.Meta.Hostname)
	for _, u := range op.Meta.Ulimit {
		add("limit "+u.GetName(), fmt.Sprint(u.GetSoft(), " ", u.GetHard()))
	}
	if len(op.Meta.ValidExitCodes) > 0 {
		add("valid exit codes", fmt.Sprint(op.Meta.ValidExitCodes))
	}
	add("cgroup", op.Meta.CgroupParent)
	if op.Meta.RemoveMountStubsRecursive {
		add("parents of mount points", "removed")
	}
	return parts
}

// mountPart says what a mount is, but for what is mounted, which counts with the
// inputs.
func mountPart(m *pb.Mount) string {
	dt, err := json.Marshal(m)
	if err != nil {
		return ""
	}
	return string(dt)
}
