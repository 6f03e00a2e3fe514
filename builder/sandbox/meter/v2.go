package meter

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kiln-build/kiln/builder/event/usage"
)

const usec = 1000 // nanoseconds

func cpuV2(dir string) *usage.CPU {
	t := readTable(dir, "cpu.stat")
	if t == nil {
		return nil
	}
	return &usage.CPU{
		UsageNanos: t.times("usage_usec", usec), UserNanos: t.times("user_usec", usec), SystemNanos: t.times("system_usec", usec),
		Periods: t.get("nr_periods"), Throttled: t.get("nr_throttled"), ThrottledNanos: t.times("throttled_usec", usec),
	}
}

func memoryV2(dir string) *usage.Memory {
	t := readTable(dir, "memory.stat")
	if t == nil {
		return nil
	}
	events := readTable(dir, "memory.events")
	return &usage.Memory{
		Swap: readNumber(dir, "memory.swap.current"), Peak: readNumber(dir, "memory.peak"),
		Anon: t.get("anon"), File: t.get("file"), Kernel: t.get("kernel"), KernelStack: t.get("kernel_stack"),
		PageTables: t.get("pagetables"), Sock: t.get("sock"), Vmalloc: t.get("vmalloc"), Shmem: t.get("shmem"),
		FileMapped: t.get("file_mapped"), FileDirty: t.get("file_dirty"), FileWriteback: t.get("file_writeback"),
		Slab: t.get("slab"), Pgscan: t.get("pgscan"), Pgsteal: t.get("pgsteal"),
		Pgfault: t.get("pgfault"), Pgmajfault: t.get("pgmajfault"),
		LowEvents: events["low"], HighEvents: events["high"], MaxEvents: events["max"],
		OomEvents: events["oom"], OomKillEvents: events["oom_kill"],
	}
}

// ioV2 adds up the devices, a line each: "MAJOR:MINOR rbytes=N wbytes=N …".
func ioV2(dir string) *usage.IO {
	text, err := os.ReadFile(filepath.Join(dir, "io.stat"))
	if err != nil {
		return nil
	}
	t := table{"rbytes": 0, "wbytes": 0, "dbytes": 0, "rios": 0, "wios": 0, "dios": 0}
	for field := range strings.FieldsSeq(string(text)) {
		name, value, _ := strings.Cut(field, "=")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			t[name] += n
		}
	}
	return &usage.IO{
		ReadBytes: t.get("rbytes"), WriteBytes: t.get("wbytes"), DiscardBytes: t.get("dbytes"),
		ReadOps: t.get("rios"), WriteOps: t.get("wios"), DiscardOps: t.get("dios"),
	}
}
