// Package usage says what the processes of a step have used. Its values are plain
// data; their JSON form is that of the samples in BuildKit's provenance.
package usage

import "time"

// Sample is what was used up to a moment, and is in use then. What the kernel
// does not tell is nil.
type Sample struct {
	Time    time.Time `json:"timestamp"`
	CPU     *CPU      `json:"cpuStat,omitempty"`
	Memory  *Memory   `json:"memoryStat,omitempty"`
	IO      *IO       `json:"ioStat,omitempty"`
	PIDs    *PIDs     `json:"pidsStat,omitempty"`
	Network *Network  `json:"netStat,omitempty"`
}

// CPU is processor time, and how often and long a quota was reached.
type CPU struct {
	UsageNanos     *uint64   `json:"usageNanos,omitempty"`
	UserNanos      *uint64   `json:"userNanos,omitempty"`
	SystemNanos    *uint64   `json:"systemNanos,omitempty"`
	Periods        *uint64   `json:"nrPeriods,omitempty"`
	Throttled      *uint64   `json:"nrThrottled,omitempty"`
	ThrottledNanos *uint64   `json:"throttledNanos,omitempty"`
	Pressure       *Pressure `json:"pressure,omitempty"`
}

// Memory is in bytes, and in pages and events that were counted.
type Memory struct {
	Swap          *uint64   `json:"swapBytes,omitempty"`
	Anon          *uint64   `json:"anon,omitempty"`
	File          *uint64   `json:"file,omitempty"`
	Kernel        *uint64   `json:"kernel,omitempty"`
	KernelStack   *uint64   `json:"kernelStack,omitempty"`
	PageTables    *uint64   `json:"pageTables,omitempty"`
	Sock          *uint64   `json:"sock,omitempty"`
	Vmalloc       *uint64   `json:"vmalloc,omitempty"`
	Shmem         *uint64   `json:"shmem,omitempty"`
	FileMapped    *uint64   `json:"fileMapped,omitempty"`
	FileDirty     *uint64   `json:"fileDirty,omitempty"`
	FileWriteback *uint64   `json:"fileWriteback,omitempty"`
	Slab          *uint64   `json:"slab,omitempty"`
	Pgscan        *uint64   `json:"pgscan,omitempty"`
	Pgsteal       *uint64   `json:"pgsteal,omitempty"`
	Pgfault       *uint64   `json:"pgfault,omitempty"`
	Pgmajfault    *uint64   `json:"pgmajfault,omitempty"`
	Peak          *uint64   `json:"peak,omitempty"`
	LowEvents     uint64    `json:"lowEvents,omitempty"`
	HighEvents    uint64    `json:"highEvents,omitempty"`
	MaxEvents     uint64    `json:"maxEvents,omitempty"`
	OomEvents     uint64    `json:"oomEvents,omitempty"`
	OomKillEvents uint64    `json:"oomKillEvents,omitempty"`
	Pressure      *Pressure `json:"pressure,omitempty"`
}

// IO is what was read from and written to disks.
type IO struct {
	ReadBytes    *uint64   `json:"readBytes,omitempty"`
	WriteBytes   *uint64   `json:"writeBytes,omitempty"`
	DiscardBytes *uint64   `json:"discardBytes,omitempty"`
	ReadOps      *uint64   `json:"readIOs,omitempty"`
	WriteOps     *uint64   `json:"writeIOs,omitempty"`
	DiscardOps   *uint64   `json:"discardIOs,omitempty"`
	Pressure     *Pressure `json:"pressure,omitempty"`
}

// PIDs is how many processes and threads there are.
type PIDs struct {
	Current *uint64 `json:"current,omitempty"`
}

// Network is what the interfaces of a network namespace, without loopback,
// received and sent.
type Network struct {
	RxBytes   int64 `json:"rxBytes,omitempty"`
	RxPackets int64 `json:"rxPackets,omitempty"`
	RxErrors  int64 `json:"rxErrors,omitempty"`
	RxDropped int64 `json:"rxDropped,omitempty"`
	TxBytes   int64 `json:"txBytes,omitempty"`
	TxPackets int64 `json:"txPackets,omitempty"`
	TxErrors  int64 `json:"txErrors,omitempty"`
	TxDropped int64 `json:"txDropped,omitempty"`
}

// Pressure is how long some, or all, of the processes had to wait.
type Pressure struct {
	Some *Stall `json:"some"`
	Full *Stall `json:"full"`
}

// Stall is the share of time in percent that was waited during the last seconds,
// and the time in microseconds since the beginning.
type Stall struct {
	Avg10  *float64 `json:"avg10"`
	Avg60  *float64 `json:"avg60"`
	Avg300 *float64 `json:"avg300"`
	Total  *uint64  `json:"total"`
}
