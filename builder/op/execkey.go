package op

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/layer/checksum"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"
)

// Key implements schedule.Op.
func (e *Exec) Key(context.Context, schedule.Job) (schedule.Key, error) {
	canonical := canonicalExec(e.exec)
	canonical.CdiDevices = nil // those that are there count, under their own names
	for _, name := range e.grants.Devices {
		canonical.CdiDevices = append(canonical.CdiDevices, &pb.CDIDevice{Name: name})
	}
	dt, err := proto.MarshalOptions{Deterministic: true}.Marshal(canonical)
	if err != nil {
		return schedule.Key{}, err
	}
	platform := e.step.OCIPlatform()
	name := strings.Join(e.exec.Meta.Args, " ")
	key := schedule.Key{
		Digest: digest.FromString("exec\x00" + platformKey(platform) + "\x00" + string(dt) + e.proxyKey()),
		Parts:  e.parts(platformKey(platform)),
		Record: cache.Description{Kind: cache.Regular, Text: "mount / from exec " + name},
	}
	for i := range e.step.Inputs {
		in, err := e.inputKey(int64(i))
		if err != nil {
			return schedule.Key{}, err
		}
		key.Inputs = append(key.Inputs, in)
	}
	return key, nil
}

// proxyKey is "" for a step without a proxy. What a step has fetched through one is
// known, and was allowed or replaced by a policy; other results are none to it.
func (e *Exec) proxyKey() string {
	if !e.step.Proxied {
		return ""
	}
	return "\x00proxy\x00" + e.grants.Policy
}

// canonicalExec leaves out what doesn't change the result: addresses of hosts,
// proxies, names of cache mounts. Selectors count with the inputs.
func canonicalExec(in *pb.ExecOp) *pb.ExecOp {
	op := in.CloneVT()
	op.Meta.ProxyEnv = nil
	for _, h := range op.Meta.ExtraHosts {
		if h != nil {
			h.IP = ""
		}
	}
	for _, m := range op.Mounts {
		m.Selector = ""
		if c := m.CacheOpt; c != nil && !defaultCache(m) {
			c.ID, c.Sharing = "", 0
		}
	}
	return op
}

// defaultCache tells whether a cache mount has the name that it gets when its
// author gives none.
func defaultCache(m *pb.Mount) bool {
	if m.CacheOpt.Sharing != pb.CacheSharingOpt_SHARED {
		return false
	}
	return m.CacheOpt.ID == m.Dest || path.Join("/", m.CacheOpt.ID) == m.Dest || strings.HasSuffix(m.CacheOpt.ID, "/"+strings.TrimPrefix(m.Dest, "/"))
}

// inputKey says how an input counts: by its content if all mounts of it only
// read it, or throw away what they write.
func (e *Exec) inputKey(input int64) (schedule.InputKey, error) {
	byContent := true
	var selectors []string
	for _, m := range e.exec.Mounts {
		if m.Input != input || m.MountType != pb.MountType_BIND && m.MountType != pb.MountType_CACHE {
			continue
		}
		selectors = append(selectors, path.Join("/", m.Selector))
		ok, err := mountByContent(m)
		if err != nil {
			return schedule.InputKey{}, err
		}
		byContent = byContent && ok
	}
	slices.Sort(selectors)
	selectors = slices.Compact(selectors)
	key := schedule.InputKey{Selector: strings.Join(selectors, "\x00"), Reads: selectors}
	if byContent && len(selectors) > 0 {
		key.Content = func(ctx context.Context, _ schedule.Job, r schedule.Result) (digest.Digest, error) {
			sel := make([]checksum.Selector, len(selectors))
			for i, s := range selectors {
				sel[i] = checksum.Selector{Path: s, FollowLinks: true}
			}
			l, _ := r.(*layer.Layer)
			return e.cfg.Layers.Digest(ctx, l, sel)
		}
	}
	return key, nil
}

func mountByContent(m *pb.Mount) (bool, error) {
	discards := m.Readonly || m.Output < 0
	switch m.ContentCache {
	case pb.MountContentCache_OFF:
		return false, nil
	case pb.MountContentCache_ON:
		if !discards {
			return false, fmt.Errorf("mount at %s: content caching was asked for, but the mount's changes are kept", m.Dest)
		}
		return true, nil
	}
	return discards && m.Dest != pb.RootMount && m.MountType == pb.MountType_BIND, nil
}
