package chaos

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/integration/testbed"
)

// soakBuilds is how many builds TestSoak makes.
var soakBuilds = flag.Int("builds", 40, "make this many builds of distinct content in one daemon")

// TestSoak builds distinct content again and again in one daemon. The memory
// that it holds after all builds is at most a fifth more than after the first
// twentieth of them, of which there must be 50 to tell anything. What counts is
// the resident size after a garbage collection; the one before it is shown too,
// and depends on when Go last made one.
func TestSoak(t *testing.T) {
	debug := filepath.Join(testbed.Dir(t), "debug.sock")
	b := embedded(t, "--gc-max-used-space", "200MB", "--debug-address", "unix://"+debug)
	dir := b.context("ARG N\nRUN echo $N > /n; head -c 200000 /dev/urandom > /data\nCOPY file /\nRUN cat /n /file > /both\n")
	first := 0
	for i := range *soakBuilds {
		b.must(os.WriteFile(filepath.Join(dir, "file"), fmt.Appendf(nil, "content %d", i), 0o644))
		out := filepath.Join(b.TempDir(), "out")
		b.mustBuild("--build-arg", fmt.Sprintf("N=%d", i), "--output", "type=oci,dest="+out, dir)
		b.must(os.Remove(out))
		if n := i + 1; n == 50 || n%100 == 0 || n == *soakBuilds {
			before := b.resident()
			b.collectMemory(debug)
			kib := b.resident()
			if n == 50 {
				first = kib
			}
			t.Logf("after %4d builds the daemon has %d MiB, %d before a collection", n, kib/1024, before/1024)
		}
	}
	b.collectMemory(debug)
	if last := b.resident(); first > 0 && *soakBuilds >= 1000 && last > first*6/5 {
		t.Errorf("after %d builds the daemon has %d KiB, after 50 it had %d KiB", *soakBuilds, last, first)
	}
	b.clean()
}

// collectMemory has the daemon give back the memory that it doesn't need.
func (b *bed) collectMemory(socket string) {
	b.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	resp, err := client.Get("http://kilnd/debug/gc")
	b.must(err)
	b.must(resp.Body.Close())
}

// resident is how much memory the daemon has, in KiB.
func (b *bed) resident() int {
	b.Helper()
	found, err := testbed.Processes(b.daemon.Root)
	b.must(err)
	for _, p := range found {
		pid, line, _ := strings.Cut(p, " ")
		if !strings.Contains(line, "kilnd --root") {
			continue
		}
		status, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
		b.must(err)
		for line := range bytes.Lines(status) {
			if f := strings.Fields(string(line)); len(f) > 1 && f[0] == "VmRSS:" {
				kib, err := strconv.Atoi(f[1])
				b.must(err)
				return kib
			}
		}
	}
	b.Fatalf("no daemon among %q", found)
	return 0
}
