package cache

import "time"

// Usage is what a record costs and how it was of use, as users see it.
type Usage struct {
	ID string
	// Mutable: it is not the result of a step but changes with use.
	Mutable bool
	InUse   bool
	// Shared: an image needs some of it too, so that removing the record frees
	// less than Size.
	Shared      bool
	Size        int64 // bytes on disk
	Parents     []string
	Created     time.Time
	LastUsed    *time.Time // nil: never since it was made
	UsageCount  int
	Description string
	Type        string
}

// Policy says what automatic collection removes: of the records that match the
// filters and weren't used for KeepDuration, the least useful, until the
// limits hold. Sizes are in bytes; 0 means no such limit.
type Policy struct {
	// Filters are in containerd's filter syntax; one of them has to match.
	Filters []string
	// All: also internal records, frontends, and what images share.
	All           bool
	KeepDuration  time.Duration
	ReservedSpace int64
	MaxUsedSpace  int64
	MinFreeSpace  int64
}

// System is the type of what takes space and is no record: databases, what only
// images need, what is being made. It is listed only where a filter has this
// word, such as type==system, and never removed.
const System = "system"

// Pins is the field of the filter pins==ID, which lists what keeps a record in
// place of records.
const Pins = "pins"

// PruneRequest is a policy that a user asks for once.
type PruneRequest = Policy
