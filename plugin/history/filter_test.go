package history

import (
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestFilters(t *testing.T) {
	t.Parallel()
	at := func(ago time.Duration) *timestamppb.Timestamp { return timestamppb.New(time.Now().Add(-ago)) }
	recs := []*record{
		{Ref: "a", CreatedAt: at(5 * time.Hour), CompletedAt: at(4 * time.Hour), FrontendAttrs: map[string]string{"vcs:source": "https://example.com/app", "context": "https://example.com/other.git"}},
		{Ref: "b", CreatedAt: at(3 * time.Hour), CompletedAt: at(170 * time.Minute), Error: &rpc.Status{Message: "exit code: 1"}, FrontendAttrs: map[string]string{"context": "https://example.com/lib.git?x=1#main:dir"}},
		{Ref: "c", CreatedAt: at(2 * time.Hour), CompletedAt: at(115 * time.Minute), Error: &rpc.Status{Message: "rpc error: context canceled"}, FrontendAttrs: map[string]string{"context": "git@example.com:team/lib.git#v1"}},
		{Ref: "d", CreatedAt: at(time.Hour), CompletedAt: at(59 * time.Minute), FrontendAttrs: map[string]string{"context": "."}},
	}
	for _, c := range []struct {
		req  *controlapi.BuildHistoryRequest
		want []string
	}{
		{&controlapi.BuildHistoryRequest{}, []string{"a", "b", "c", "d"}},
		{&controlapi.BuildHistoryRequest{Limit: 2}, []string{"d", "c"}},
		{&controlapi.BuildHistoryRequest{Ref: "b", Limit: 2}, []string{"b"}},
		{&controlapi.BuildHistoryRequest{Filter: []string{"ref==a", "ref==d"}}, []string{"a", "d"}},
		{&controlapi.BuildHistoryRequest{Filter: []string{"ref~=[abc],status==error"}}, []string{"b"}},
		{&controlapi.BuildHistoryRequest{Filter: []string{"status==canceled"}}, []string{"c"}},
		{&controlapi.BuildHistoryRequest{Filter: []string{"status!=completed"}}, []string{"b", "c"}},
		{&controlapi.BuildHistoryRequest{Filter: []string{"status==running"}}, nil},
		{&controlapi.BuildHistoryRequest{Filter: []string{"repository==https://example.com/app"}}, []string{"a"}},
		{&controlapi.BuildHistoryRequest{Filter: []string{"repository==https://example.com/lib.git"}}, []string{"b"}},
		{&controlapi.BuildHistoryRequest{Filter: []string{"repository==git@example.com:team/lib.git"}}, []string{"c"}},
		{&controlapi.BuildHistoryRequest{Filter: []string{"repository~=example"}}, []string{"a", "b", "c"}},
		{&controlapi.BuildHistoryRequest{Filter: []string{"startedAt>150m"}}, []string{"c", "d"}},
		{&controlapi.BuildHistoryRequest{Filter: []string{"startedAt<=150m,duration>=1h"}}, []string{"a"}},
		{&controlapi.BuildHistoryRequest{Filter: []string{"duration<6m"}}, []string{"c", "d"}},
		{&controlapi.BuildHistoryRequest{Filter: []string{"completedAt>" + time.Now().Add(-2*time.Hour).Format(time.RFC3339)}}, []string{"c", "d"}},
	} {
		s, err := newSelection(c.req)
		if err != nil {
			t.Errorf("%v: %v", c.req, err)
			continue
		}
		var got []string
		for _, rec := range s.from(recs) {
			got = append(got, rec.Ref)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: got %v, want %v", c.req, got, c.want)
		}
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	for _, req := range []*controlapi.BuildHistoryRequest{
		{Limit: -1},
		{Filter: []string{"ref+x"}},
		{Filter: []string{"startedAt>yesterday"}},
		{Filter: []string{"duration<long"}},
		{Filter: []string{`ref=="a`}},
	} {
		if _, err := newSelection(req); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: error %v", req, err)
		}
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{"", ",", "ref==a", "repository~=a.*,status!=error", "startedAt>24h", "duration<=", `"a,b"==c`, "ref~=("} {
		f.Add(s, "https://example.com/a.git#b")
	}
	rec := &record{Ref: "a", CreatedAt: timestamppb.Now(), CompletedAt: timestamppb.Now()}
	f.Fuzz(func(t *testing.T, filter, context string) {
		s, err := newSelection(&controlapi.BuildHistoryRequest{Filter: []string{filter}})
		if err != nil {
			return
		}
		rec.FrontendAttrs = map[string]string{"context": context}
		s.matches(rec)
	})
}
