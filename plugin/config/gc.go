package config

import "time"

// GC says what is removed to keep the disk from filling up.
type GC struct {
	Enabled bool `toml:"enabled"`
	// ReservedSpace is never collected, MaxUsedSpace is never exceeded, and
	// MinFreeSpace of the disk is to be left free. They count for the default
	// policies; all of them zero is 10%, at most 10 GB; 80%, at most 100 GB; and
	// 20%.
	ReservedSpace Size `toml:"reservedSpace"`
	MaxUsedSpace  Size `toml:"maxUsedSpace"`
	MinFreeSpace  Size `toml:"minFreeSpace"`
	// Policies are applied in order. Where there are none, there are default
	// ones.
	Policies []GCPolicy `toml:"policy"`
}

// GCPolicy removes records that meet any of the filters, and have not been used
// for KeepDuration, while the limits are exceeded.
type GCPolicy struct {
	// All includes what is internal, and what images share.
	All           bool     `toml:"all"`
	Filters       []string `toml:"filters"`
	KeepDuration  Duration `toml:"keepDuration"`
	ReservedSpace Size     `toml:"reservedSpace"`
	MaxUsedSpace  Size     `toml:"maxUsedSpace"`
	MinFreeSpace  Size     `toml:"minFreeSpace"`
}

// EffectivePolicies are the policies for a disk of so many bytes, 0 where it is
// unknown, with all sizes in bytes. There are none where GC is not enabled.
func (g GC) EffectivePolicies(disk int64) []GCPolicy {
	if !g.Enabled {
		return nil
	}
	policies := g.Policies
	if len(policies) == 0 {
		policies = g.defaultPolicies(disk)
	}
	out := make([]GCPolicy, len(policies))
	for i, p := range policies {
		p.ReservedSpace = Size{Bytes: p.ReservedSpace.Of(disk)}
		p.MaxUsedSpace = Size{Bytes: p.MaxUsedSpace.Of(disk)}
		p.MinFreeSpace = Size{Bytes: p.MinFreeSpace.Of(disk)}
		out[i] = p
	}
	return out
}

// defaultPolicies first remove what is made again easily, then what is old, then
// whatever was not used for long.
func (g GC) defaultPolicies(disk int64) []GCPolicy {
	reserved, most, free := g.ReservedSpace, g.MaxUsedSpace, g.MinFreeSpace
	if (reserved == Size{} && most == Size{} && free == Size{}) {
		reserved = Size{Bytes: min(Size{Percent: 10}.Of(disk), 10e9)}
		most = Size{Bytes: min(Size{Percent: 80}.Of(disk), 100e9)}
		free = Size{Percent: 20}
	}
	const day = 24 * time.Hour
	limited := GCPolicy{ReservedSpace: reserved, MaxUsedSpace: most, MinFreeSpace: free}
	old, internal := limited, limited
	old.KeepDuration = Duration{60 * day}
	internal.All = true
	return []GCPolicy{
		{
			Filters:      []string{"type==source.local", "type==exec.cachemount", "type==source.git.checkout"},
			KeepDuration: Duration{2 * day},
			MaxUsedSpace: Size{Bytes: 512e6},
		},
		old,
		limited,
		internal,
	}
}
