package history

import (
	"cmp"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	csvvalue "github.com/tonistiigi/go-csvvalue"
)

type record = controlapi.BuildHistoryRecord

// condition says whether a record is wanted.
type condition func(*record) bool

// selection chooses records: those of one ref where that is set, which meet
// all conditions of any one filter, the newest where there is a limit.
type selection struct {
	ref     string
	filters [][]condition
	limit   int
}

func newSelection(req *controlapi.BuildHistoryRequest) (selection, error) {
	s := selection{ref: req.Ref, limit: int(req.Limit)}
	if req.Limit < 0 {
		return s, fmt.Errorf("build history: limit %d is negative: %w", req.Limit, errdefs.ErrInvalidArgument)
	}
	for _, filter := range req.Filter {
		all, err := parseFilter(filter, time.Now())
		if err != nil {
			return s, fmt.Errorf("build history: filter %q: %w: %w", filter, err, errdefs.ErrInvalidArgument)
		}
		s.filters = append(s.filters, all)
	}
	return s, nil
}

// from returns the chosen records in the order of their refs, or the newest
// first where there is a limit.
func (s selection) from(recs []*record) []*record {
	var out []*record
	for _, rec := range recs {
		if (s.ref == "" || s.ref == rec.Ref) && s.matches(rec) {
			out = append(out, rec)
		}
	}
	slices.SortFunc(out, func(a, b *record) int {
		byRef := cmp.Compare(a.Ref, b.Ref)
		if s.limit == 0 {
			return byRef
		}
		return cmp.Or(b.CreatedAt.AsTime().Compare(a.CreatedAt.AsTime()), byRef)
	})
	if s.limit > 0 && len(out) > s.limit {
		out = out[:s.limit]
	}
	return out
}

func (s selection) matches(rec *record) bool {
	return len(s.filters) == 0 || slices.ContainsFunc(s.filters, func(all []condition) bool {
		return !slices.ContainsFunc(all, func(c condition) bool { return !c(rec) })
	})
}

// parseFilter parses conditions that are separated by commas. Those on times
// and durations are ours, the others containerd's filters.
func parseFilter(filter string, now time.Time) ([]condition, error) {
	fields, err := csvvalue.Fields(filter, nil)
	if err != nil {
		return nil, err
	}
	var all []condition
	var rest []string
	for _, field := range fields {
		c, err := parseTimes(field, now)
		if err != nil {
			return nil, err
		}
		if c == nil {
			rest = append(rest, field)
		} else {
			all = append(all, c)
		}
	}
	f, err := filters.Parse(strings.Join(rest, ","))
	if err != nil {
		return nil, err
	}
	return append(all, func(rec *record) bool { return f.Match(adaptor(rec)) }), nil
}

// times are what conditions with < and > are about, in seconds; durations in
// nanoseconds.
var times = map[string]func(*record) int64{
	"startedAt":   func(rec *record) int64 { return rec.CreatedAt.GetSeconds() },
	"completedAt": func(rec *record) int64 { return rec.CompletedAt.GetSeconds() },
	"duration": func(rec *record) int64 {
		if rec.CompletedAt == nil {
			return 0
		}
		return int64(rec.CompletedAt.AsTime().Sub(rec.CreatedAt.AsTime()))
	},
}

var comparison = regexp.MustCompile(`^(\w+)(>=|<=|>|<)(.*)$`)

// parseTimes returns nil for a condition that is not about a time.
func parseTimes(field string, now time.Time) (condition, error) {
	m := comparison.FindStringSubmatch(field)
	if m == nil || times[m[1]] == nil {
		return nil, nil
	}
	value := times[m[1]]
	var bound int64
	var err error
	if m[1] == "duration" {
		var d time.Duration
		d, err = time.ParseDuration(m[3])
		bound = int64(d)
	} else {
		bound, err = parseTime(m[3], now)
	}
	if err != nil {
		return nil, err
	}
	return func(rec *record) bool {
		switch c := cmp.Compare(value(rec), bound); m[2] {
		case ">=":
			return c >= 0
		case "<=":
			return c <= 0
		case ">":
			return c > 0
		default:
			return c < 0
		}
	}, nil
}

// parseTime takes a time, or how long ago it was, and returns Unix seconds.
func parseTime(s string, now time.Time) (int64, error) {
	if ago, err := time.ParseDuration(s); err == nil {
		return now.Add(-ago).Unix(), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return 0, fmt.Errorf("%q is neither a duration such as 24h nor a time such as 2006-01-02T15:04:05Z", s)
	}
	return t.Unix(), nil
}

func adaptor(rec *record) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		switch strings.Join(path, ".") {
		case "ref":
			return rec.Ref, true
		case "status":
			return statusOf(rec), true
		case "repository":
			return repository(rec)
		}
		return "", false
	})
}

func statusOf(rec *record) string {
	switch {
	case rec.CompletedAt == nil:
		return "running"
	case rec.Error == nil:
		return "completed"
	case strings.Contains(rec.Error.Message, "context canceled"):
		return "canceled"
	}
	return "error"
}

var scpStyle = regexp.MustCompile(`^[\w.-]+@[\w.-]+:[^#?]+`)

// repository is what the client says that it builds, or the Git repository
// that is the context.
func repository(rec *record) (string, bool) {
	if source, ok := rec.FrontendAttrs["vcs:source"]; ok {
		return source, true
	}
	context := rec.FrontendAttrs["context"]
	if u, err := url.Parse(context); err == nil {
		switch u.Scheme {
		case "http", "https", "ssh", "git":
			u.Fragment, u.RawFragment, u.RawQuery = "", "", ""
			return u.String(), true
		}
	}
	remote := scpStyle.FindString(context)
	return remote, remote != ""
}
