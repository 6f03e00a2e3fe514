package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-build/kiln/integration/testbed"
)

// sized is a stage that takes so many MB on disk, on nothing else.
func sized(name string, mb int) string {
	return fmt.Sprintf("RUN echo %s; head -c %d /dev/urandom > /%s\n", name, mb*1_000_000, name)
}

// kept are those of the names that a record's description has.
func (b *bed) kept(names ...string) (kept []string) {
	b.Helper()
	all := b.records()
	for _, name := range names {
		if slices.ContainsFunc(all, func(u usage) bool { return strings.Contains(u.Description, "echo "+name+";") }) {
			kept = append(kept, name)
		}
	}
	return kept
}

// TestPruneLimits prunes with each limit, and looks at what is left and how much of
// the disk that takes.
func TestPruneLimits(t *testing.T) {
	t.Parallel()
	onBoth(t, func(b *bed) {
		names := []string{"one", "two", "three", "four"}
		dir := b.context("")
		for _, name := range names {
			b.dockerfile(dir, "RUN --mount=type=cache,target=/c head -c 2000000 /dev/zero > /c/x\n"+sized(name, 5))
			b.mustBuild("--output", b.TempDir(), dir)
		}
		b.settled()
		b.exact("before")
		whole := total(b.records())
		for _, c := range []struct {
			args string
			left []string // by what was used last
		}{
			{"--keep-duration 1h", names},
			{"--min-free-space 1KB", names},
			{fmt.Sprintf("--max-used-space %d", whole+1), names},
			{"--filter type==exec.cachemount", names},
			{"--filter description~=two", []string{"one", "three", "four"}},
			{fmt.Sprintf("--max-used-space 1KB --reserved-space %d", whole-9_000_000), []string{"three", "four"}},
			{"--max-used-space 11MB", []string{"four"}},
			{"--min-free-space 500TB", nil},
		} {
			b.kiln(append([]string{"prune"}, strings.Fields(c.args)...)...)
			if got := b.kept(names...); !slices.Equal(got, c.left) {
				b.Errorf("prune %s has left %q, want %q: %+v", c.args, got, c.left, b.records())
			}
			b.exact("after prune " + c.args)
		}
		b.clean()
	})
}

// exact compares what du says with what there is.
func (b *bed) exact(when string) {
	b.Helper()
	if b.containerd == nil {
		near(b, when, total(b.du()), onDisk(b, b.daemon.Root))
	} else {
		near(b, when, total(b.records()), leased(b))
	}
}

// TestPolicies starts a daemon again with policies, which it applies at once.
func TestPolicies(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	dir := b.context("")
	names := []string{"one", "two", "three"}
	for _, name := range names {
		b.dockerfile(dir, "RUN --mount=type=cache,id="+name+",target=/c echo "+name+" > /c/n; head -c 3000000 /dev/zero > /c/x\n"+sized(name, 5))
		b.mustBuild("--output", b.TempDir(), dir)
	}
	whole := total(b.records()) // limits are for all records, whatever the filters say
	file := filepath.Join(b.TempDir(), "kilnd.toml")
	for i, c := range []struct {
		text     string
		left     []string
		mounts   int  // cache mounts
		contexts bool // directories of clients, beside the one that a step stands on
	}{
		{"[[gc.policy]]\nkeepDuration = \"1h\"\nmaxUsedSpace = \"1MB\"", names, 3, true},
		{fmt.Sprintf("[[gc.policy]]\nfilters = [\"type==exec.cachemount\"]\nmaxUsedSpace = %d", whole-4_000_000), names, 1, true},
		{"[[gc.policy]]\nfilters = [\"type==source.local\", \"type==exec.cachemount\"]", names, 0, false},
		{"[[gc.policy]]\nmaxUsedSpace = \"12MB\"", []string{"three"}, 0, false},
		{"[[gc.policy]]\nall = true", nil, 0, false},
	} {
		b.must(b.daemon.Stop())
		b.must(os.WriteFile(file, []byte(c.text+"\n"), 0o644))
		b.daemon.Args = append(slices.Clip(b.daemon.Args[:8]), "--config", file)
		b.daemon.Start(b)
		if i == 0 {
			time.Sleep(3 * time.Second) // it collects, and nothing changes
		}
		b.must(testbed.Eventually(20*time.Second, func() error {
			count := map[string]int{}
			for _, u := range b.records() {
				count[u.RecordType]++
			}
			if got := b.kept(names...); !slices.Equal(got, c.left) || count["exec.cachemount"] != c.mounts || count["source.local"] > 1 != c.contexts {
				return fmt.Errorf("%s\nleaves %q and %v", c.text, got, count)
			}
			return nil
		}))
	}
	b.clean()
}
