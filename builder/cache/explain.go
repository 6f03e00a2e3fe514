package cache

import (
	"slices"
	"strings"
	"time"
)

// Difference is one thing by which the keys of two records differ. Old or New
// is empty where only one of them has it.
type Difference struct {
	// What is the name of a part, or Input or Content of an input.
	What string
	// Input is the input's place, -1 for a part.
	Input    int
	Old, New string
}

// What an input can differ in.
const (
	// InputChanged: the input is another result.
	InputChanged = "input"
	// ContentChanged: what the step reads of the input is different.
	ContentChanged = "content"
	// Unnamed: the op differs in something that has no part.
	Unnamed = "other"
)

// Compare tells in what the key of a record differs from that of another: in
// nothing, where the earlier one was only lost.
func Compare(r, earlier Record) []Difference {
	var ds []Difference
	old := values(earlier.Parts)
	for _, p := range r.Parts {
		was, ok := old[p.Name]
		delete(old, p.Name)
		if !ok || was != p.Value {
			ds = append(ds, Difference{What: p.Name, Input: -1, Old: was, New: p.Value})
		}
	}
	for _, p := range earlier.Parts {
		if was, ok := old[p.Name]; ok {
			delete(old, p.Name)
			ds = append(ds, Difference{What: p.Name, Input: -1, Old: was})
		}
	}
	if len(ds) == 0 && r.Op != earlier.Op {
		ds = append(ds, Difference{What: Unnamed, Input: -1, Old: string(earlier.Op), New: string(r.Op)})
	}
	return append(ds, compareInputs(r.Inputs, earlier.Inputs)...)
}

func values(parts []Part) map[string]string {
	m := make(map[string]string, len(parts))
	for _, p := range parts {
		m[p.Name] = p.Value
	}
	return m
}

func compareInputs(now, old []Input) []Difference {
	var ds []Difference
	for i := range max(len(now), len(old)) {
		var a, b Input
		if i < len(now) {
			a = now[i]
		}
		if i < len(old) {
			b = old[i]
		}
		switch {
		case a == b:
		case a.Content != "" && b.Content != "":
			if a.Content != b.Content {
				ds = append(ds, Difference{ContentChanged, i, string(b.Content), string(a.Content)})
			}
		case a.Record != b.Record || a.Output != b.Output:
			ds = append(ds, Difference{InputChanged, i, string(b.Record), string(a.Record)})
		}
	}
	return ds
}

// Nearest finds, among earlier records, the one that a step would have made if
// nothing had changed: one of a step with the same name, or at the same place
// of a Dockerfile, or of the same kind on the same inputs. Of several it is the
// one that has most in common, and then the latest.
func Nearest(r Record, earlier []Record) (nearest Record, found bool) {
	var best likeness
	for _, e := range earlier {
		l := like(r, e)
		if l.rank > 0 && l.above(best) {
			best, nearest, found = l, e, true
		}
	}
	return nearest, found
}

// likeness orders records by how near they are to another.
type likeness struct {
	rank, common int
	created      time.Time
}

func (l likeness) above(o likeness) bool {
	if l.rank != o.rank {
		return l.rank > o.rank
	}
	if l.common != o.common {
		return l.common > o.common
	}
	return l.created.After(o.created)
}

func like(r, e Record) likeness {
	l := likeness{created: e.Created}
	switch {
	case e.ID == r.ID:
		l.rank = 4
	case e.Step == r.Step:
		l.rank = 3
	case place(e.Step) != "" && place(e.Step) == place(r.Step):
		l.rank = 2
	case len(r.Inputs) > 0 && slices.Equal(r.Inputs, e.Inputs) && kind(r) == kind(e):
		l.rank = 1
	default:
		return l
	}
	old := values(e.Parts)
	for _, p := range r.Parts {
		if was, ok := old[p.Name]; ok && was == p.Value {
			l.common++
		}
	}
	for i, in := range r.Inputs {
		if i < len(e.Inputs) && len(compareInputs([]Input{in}, e.Inputs[i:i+1])) == 0 {
			l.common++
		}
	}
	return l
}

// place is what a Dockerfile's step keeps when its text changes: its number, its
// stage and its instruction, as in "[build 2/5] RUN". "" is none.
func place(step string) string {
	end := strings.Index(step, "] ")
	if !strings.HasPrefix(step, "[") || end < 0 {
		return ""
	}
	instruction, _, _ := strings.Cut(step[end+2:], " ")
	return step[:end+2] + instruction
}

// kind tells execs from file operations and so on, by the names of their parts.
func kind(r Record) string {
	if len(r.Parts) == 0 {
		return ""
	}
	first, _, _ := strings.Cut(r.Parts[0].Name, " ")
	return first
}
