package checksum

import (
	"fmt"
	"path"
	"strings"

	"github.com/moby/patternmatcher"
)

// Filter decides by include and exclude patterns what lies below a selected
// path and counts. It is shared by all who have to agree on that.
type Filter struct {
	include, exclude *patternmatcher.PatternMatcher
}

// NewFilter compiles the patterns of a [Selector].
func NewFilter(include, exclude []string) (*Filter, error) {
	f := &Filter{}
	var err error
	if len(include) > 0 {
		if f.include, err = patternmatcher.New(include); err != nil {
			return nil, fmt.Errorf("invalid include patterns %q: %w", include, err)
		}
	}
	if len(exclude) > 0 {
		if f.exclude, err = patternmatcher.New(exclude); err != nil {
			return nil, fmt.Errorf("invalid exclude patterns %q: %w", exclude, err)
		}
	}
	return f, nil
}

// Above is what a directory's match says about what it holds. The zero value
// is that of the selected path itself.
type Above struct{ include, exclude patternmatcher.MatchInfo }

// Verdict is a filter's decision on one entry.
type Verdict struct {
	// Selected entries count. The directories above a selected entry do too.
	Selected bool
	// Hopeless: nothing below the entry can be selected.
	Hopeless bool
	// Below is for the entries that the entry holds.
	Below Above
}

// Match decides on the entry at rel, a clean path relative to the selected
// path. A Filter must not be used by several goroutines at once.
func (f *Filter) Match(rel string, above Above) (Verdict, error) {
	v := Verdict{Selected: true}
	if f.include != nil {
		m, info, err := f.include.MatchesUsingParentResults(rel, above.include)
		if err != nil {
			return v, fmt.Errorf("invalid include patterns: %w", err)
		}
		v.Selected, v.Below.include = m, info
	}
	if f.exclude != nil {
		m, info, err := f.exclude.MatchesUsingParentResults(rel, above.exclude)
		if err != nil {
			return v, fmt.Errorf("invalid exclude patterns: %w", err)
		}
		v.Below.exclude = info
		if m {
			v.Selected = false
			v.Hopeless = !f.exclude.Exclusions()
		}
	}
	return v, nil
}

// SplitPattern splits a clean path before its first element that is a
// pattern; pattern is "" if there is none.
func SplitPattern(p string) (dir, pattern string) {
	elements := strings.Split(p, "/")
	for i, e := range elements {
		if HasWildcard(e) {
			return path.Join("/", path.Join(elements[:i]...)), path.Join(elements[i:]...)
		}
	}
	return p, ""
}

// HasWildcard tells if p has an unescaped character that makes it a pattern.
func HasWildcard(p string) bool {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}
