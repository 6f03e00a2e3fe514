package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/integration/testbed"
)

// TestLimits: the daemon's limits hold for steps whatever they do, and what steps used
// is in the build's record.
func TestLimits(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "config.toml")
	b := &bed{T: t}
	b.must(os.WriteFile(file, []byte("[sandbox.limits]\nmemory = \"40MB\"\nmemorySwap = \"40MB\"\npids = 25\ncpuQuota = 50000\n"), 0o644))
	b.daemon = testbed.StartDaemon(t, "--config", file, "--backend", "embedded")
	build := func(dockerfile string) output {
		dir := b.files("-- Dockerfile --\n" + dockerfile)
		return try(b.daemon.Client("buildctl", "build", "--progress=plain", "--frontend=dockerfile.v0", "--local=context="+dir, "--local=dockerfile="+dir))
	}
	busy := build("FROM BASE\nRUN i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/f bs=1M count=9\n")
	if busy.err != nil {
		t.Fatalf("%v\n%s", busy.err, busy.stderr)
	}
	hog := build("FROM BASE\nRUN tail /dev/zero\n")
	if hog.err == nil || !strings.Contains(hog.stderr, "out of memory: limit is 41943040 bytes") {
		t.Errorf("more memory than there is: %v\n%s", hog.err, hog.stderr)
	}
	forks := build("FROM BASE\nRUN i=0; while [ $i -lt 40 ]; do sleep 1 & i=$((i+1)); done; wait\n")
	if forks.err == nil || !strings.Contains(forks.stderr, "can't fork") {
		t.Errorf("more processes than there may be: %v\n%s", forks.err, forks.stderr)
	}
	b.checkUsage()
	b.idle()
}

// checkUsage looks for what the step that ended well has used.
func (b *bed) checkUsage() {
	b.Helper()
	records := b.run(b.daemon.Client("buildctl", "debug", "histories", "--format={{json .}}")).stdout
	var used []string
	for _, m := range regexp.MustCompile(`"application/vnd.in-toto\+json","digest":"(sha256:[0-9a-f]+)"`).FindAllStringSubmatch(strings.ReplaceAll(records, "media_type", "mediaType"), -1) {
		used = append(used, b.run(b.daemon.Client("buildctl", "debug", "get", m[1])).stdout)
	}
	for _, text := range used {
		var doc struct {
			Predicate struct {
				Steps []struct {
					Name  string
					Usage struct {
						Samples []struct {
							CPU struct {
								Usage     uint64 `json:"usageNanos"`
								Throttled uint64 `json:"nrThrottled"`
							} `json:"cpuStat"`
							Memory struct{ Peak uint64 } `json:"memoryStat"`
						}
					} `json:"resourceUsage"`
				}
			}
		}
		b.must(json.Unmarshal([]byte(text), &doc))
		for _, s := range doc.Predicate.Steps {
			if n := len(s.Usage.Samples); n > 0 && strings.Contains(s.Name, "200000") {
				last := s.Usage.Samples[n-1]
				if last.CPU.Usage < 1e7 || last.CPU.Throttled == 0 || last.Memory.Peak < 9<<20 || last.Memory.Peak > 40<<20 {
					b.Errorf("used: %+v", last)
				}
				return
			}
		}
	}
	b.Errorf("no usage of the step in %d documents of\n%s", len(used), records)
}
