package event

import (
	"testing"
	"time"
)

// statuses is a sink that keeps the statuses.
type statuses []*Status

func (s *statuses) Emit(e Event) { *s = append(*s, e.(*Status)) }

func TestItem(t *testing.T) {
	for name, total := range map[string]int64{"of known size": 7, "of unknown size": 0} {
		t.Run(name, func(t *testing.T) {
			var got statuses
			item := Progress{Sink: &got}.Begin("item")
			item.Set(3, total)
			item.Set(4, total) // too soon to be told
			item.Set(7, total)
			item.Done()
			item.Done()
			item.Set(8, total)
			if got[0].Started == nil || got[0].Completed != nil {
				t.Errorf("the beginning is %+v", got[0])
			}
			completed := 0
			for _, s := range got {
				if s.Completed != nil {
					completed++
				}
				if s != got[0] && s.Total != total {
					t.Errorf("the total is %d in %+v", s.Total, s)
				}
				if s.Current == 4 {
					t.Errorf("told too soon: %+v", s)
				}
			}
			last := got[len(got)-1]
			if last.Completed == nil || completed != 1 || last.Current != 7 {
				t.Errorf("the end is %+v, and there are %d", last, completed)
			}
		})
	}
}

func TestItemIsToldEveryNowAndThen(t *testing.T) {
	var got statuses
	item := Progress{Sink: &got}.Begin("item")
	item.Set(1, 0)
	time.Sleep(updateEvery)
	item.Set(2, 0)
	if len(got) != 3 {
		t.Errorf("%d statuses, want the beginning and two", len(got))
	}
}
