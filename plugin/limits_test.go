package plugin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/plugin/config"
	"golang.org/x/sys/unix"
)

func TestSandboxLimits(t *testing.T) {
	t.Parallel()
	disk := filepath.Join(t.TempDir(), "disk")
	if err := unix.Mknod(disk, unix.S_IFBLK|0o600, int(unix.Mkdev(254, 3))); err != nil {
		t.Fatal(err)
	}
	r, err := sandboxLimits(config.Limits{
		Memory: config.Size{Bytes: 5 << 20}, Pids: 7, CPUs: "0",
		IO: []config.IOLimit{{Device: disk, ReadBytes: config.Size{Bytes: 9}, WriteOps: 3}},
	})
	if err != nil || r.Memory != 5<<20 || r.Pids != 7 || r.CpusetCPUs != "0" {
		t.Errorf("error %v, got %+v", err, r)
	}
	if len(r.IO) != 1 || r.IO[0].Major != 254 || r.IO[0].Minor != 3 || r.IO[0].ReadBytes != 9 || r.IO[0].WriteOps != 3 {
		t.Errorf("I/O limits %+v", r.IO)
	}
	for want, l := range map[string]config.Limits{
		"/nothing":       {IO: []config.IOLimit{{Device: "/nothing"}}},
		"block device":   {IO: []config.IOLimit{{Device: os.DevNull}}},
		"sandbox.limits": {IOWeight: 5},
	} {
		if _, err := sandboxLimits(l); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", l, err)
		}
	}
}
