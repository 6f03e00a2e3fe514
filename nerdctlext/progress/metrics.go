package progress

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
)

var fromStep = regexp.MustCompile(`^\[.*\] FROM`)

// ownSteps are the beginnings of the names of steps that no Dockerfile wrote.
var ownSteps = []string{"[internal]", "[auth]", "importing cache", "exporting "}

// CacheMetrics counts which steps of a build were found in the cache.
type CacheMetrics struct {
	started time.Time
	order   []digest.Digest
	steps   map[digest.Digest]*step
}

type step struct {
	name              string
	cached, completed bool
}

// NewCacheMetrics begins to count for a build that starts now.
func NewCacheMetrics() *CacheMetrics {
	return &CacheMetrics{started: time.Now(), steps: map[digest.Digest]*step{}}
}

// Observe counts one update; it is a sink for Start.
func (m *CacheMetrics) Observe(status *client.SolveStatus) {
	for _, vertex := range status.Vertexes {
		known, ok := m.steps[vertex.Digest]
		if !ok {
			known = &step{name: vertex.Name}
			m.steps[vertex.Digest] = known
			m.order = append(m.order, vertex.Digest)
		}
		known.cached = known.cached || vertex.Cached
		known.completed = known.completed || vertex.Completed != nil
	}
}

// Print writes a line for each step that missed the cache and, last, one JSON object.
func (m *CacheMetrics) Print(out io.Writer) error {
	var sum struct {
		Total            int64 `json:"total"`
		Completed        int64 `json:"completed"`
		UserTotal        int64 `json:"user_total"`
		UserCached       int64 `json:"user_cached"`
		UserCompleted    int64 `json:"user_completed"`
		UserCacheable    int64 `json:"user_cacheable"`
		From             int64 `json:"from"`
		Miss             int64 `json:"miss"`
		ClientDurationMS int64 `json:"client_duration_ms"`
	}
	for _, id := range m.order {
		s := m.steps[id]
		sum.Total++
		sum.Completed += count(s.completed)
		if s.own() {
			continue
		}
		from := fromStep.MatchString(s.name)
		missed := !s.cached && !from
		sum.UserTotal++
		sum.UserCached += count(s.cached)
		sum.UserCompleted += count(s.completed)
		sum.UserCacheable += count(!from)
		sum.From += count(from)
		sum.Miss += count(missed)
		if missed {
			fmt.Fprintf(out, "cache miss: %s\n", s.name)
		}
	}
	sum.ClientDurationMS = time.Since(m.started).Milliseconds()
	return json.NewEncoder(out).Encode(sum)
}

func (s *step) own() bool {
	for _, prefix := range ownSteps {
		if strings.HasPrefix(s.name, prefix) {
			return true
		}
	}
	return false
}

func count(yes bool) int64 {
	if yes {
		return 1
	}
	return 0
}
