package checksum

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/patternmatcher"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// model is a tree as plain values: the naive implementation that a Tree is
// compared with.
type model map[string]*item

type item struct {
	Entry
	content string
}

func randomModel(r *rand.Rand) model {
	m := model{"": {Entry: Entry{Mode: fs.ModeDir | 0o755}}}
	dirs := []string{""}
	for range 3 + r.IntN(25) {
		p := path.Join(dirs[r.IntN(len(dirs))], string("abcd"[r.IntN(4)])+[]string{"", ".go", "-", "\xff"}[r.IntN(4)])
		if m[p] != nil {
			continue
		}
		it := &item{Entry: Entry{Path: p}}
		switch r.IntN(6) {
		case 0, 1:
			it.Mode = fs.ModeDir | 0o755
			dirs = append(dirs, p)
		case 2:
			it.Mode = fs.ModeSymlink | 0o777
			it.Linkname = randomTarget(r)
		default:
			it.Mode = 0o644
			it.content = fmt.Sprint(r.IntN(3))
		}
		m[p] = it
	}
	return m
}

func randomTarget(r *rand.Rand) string {
	p := []string{"a", "b", "../a", "/a", "/b/../a", ".", "/", "../../../a/b", "none"}
	return p[r.IntN(len(p))]
}

func randomSelector(r *rand.Rand) Selector {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	s := Selector{Path: pick("", "/", "a", "b", "/a/b", "a/", "c.go", "a/../b"), FollowLinks: r.IntN(2) == 0}
	if r.IntN(3) == 0 {
		s.Wildcard, s.Path = true, pick("*", "a*", "a/*", "*/*", "?/b", "[ab]*", "b/*.go")
	}
	patterns := []string{"*", "a", "b", "**/*.go", "a/b", "*/c", "**", "a/*", "!a/b", "!**/c*", "d"}
	if r.IntN(3) == 0 {
		s.Include = []string{pick(patterns...), pick(patterns...)}
	}
	if r.IntN(3) == 0 {
		s.Exclude = []string{pick(patterns...), pick(patterns...)}
	}
	return s
}

// resolve follows links as a chroot would, nil if there is nothing.
func (m model) resolve(p string, follow bool) *item {
	todo := strings.Split(p, "/")
	at, links := "", 0
	for i := 0; i < len(todo); i++ {
		switch todo[i] {
		case "", ".":
			continue
		case "..":
			if at = path.Dir(at); at == "." {
				at = ""
			}
			continue
		}
		if !m[at].Mode.IsDir() {
			return nil
		}
		it := m[path.Join(at, todo[i])]
		if it == nil {
			return nil
		}
		if it.Mode&fs.ModeSymlink == 0 || (!follow && strings.Join(todo[i+1:], "") == "") {
			at = it.Path
			continue
		}
		if links++; links > maxLinks {
			return nil
		}
		if strings.HasPrefix(it.Linkname, "/") {
			at = ""
		}
		todo, i = append(strings.Split(it.Linkname, "/"), todo[i+1:]...), -1
	}
	return m[at]
}

// describe says all that counts of an item.
func (it *item) describe(as string) string {
	return fmt.Sprintf("%q %v %d:%d %q %q %v\n", as, it.Mode, it.UID, it.GID, it.Linkname, it.content, it.Xattrs)
}

func (m model) deep(it *item, as string) string {
	var b strings.Builder
	for _, p := range slices.Sorted(maps.Keys(m)) {
		if rest, ok := strings.CutPrefix(p+"/", strings.TrimPrefix(it.Path+"/", "/")); ok {
			b.WriteString(m[p].describe(path.Join(as, rest)))
		}
	}
	return b.String()
}

// read is what a copy with this selector sees; ok is false if it would fail.
func (m model) read(t *testing.T, s Selector) (seen string, ok bool) {
	p := path.Join("/", s.Path)
	if !s.filtered() {
		it := m.resolve(p, s.FollowLinks)
		if it == nil {
			return "", false
		}
		return m.deep(it, ""), true
	}
	var b strings.Builder
	for _, top := range m.tops(s, p) {
		it := m.resolve(top, s.FollowLinks)
		if it == nil && s.FollowLinks && m.resolve(top, false) != nil {
			return "", false
		}
		if it == nil {
			continue
		}
		if link := m.resolve(top, false); link != it {
			b.WriteString(m.deep(it, top))
			continue
		}
		if top != "/" || !it.Mode.IsDir() {
			b.WriteString(it.describe(top))
		}
		for _, p := range m.filtered(t, it, s) {
			b.WriteString(m[p].describe(path.Join(top, strings.TrimPrefix(p, it.Path))))
		}
	}
	return b.String(), true
}

func (m model) tops(s Selector, p string) []string {
	dir, pattern := SplitPattern(p)
	if !s.Wildcard || pattern == "" {
		return []string{p}
	}
	var tops []string
	start := m.resolve(dir, true)
	for _, q := range slices.Sorted(maps.Keys(m)) {
		if start == nil || !start.Mode.IsDir() {
			break
		}
		rel, below := strings.CutPrefix("/"+q, strings.TrimSuffix("/"+start.Path, "/")+"/")
		if ok, _ := path.Match(pattern, rel); below && ok && rel != "" {
			tops = append(tops, path.Join(dir, rel))
		}
	}
	return tops
}

// filtered are the paths below top that the patterns select, with the
// directories above them. Patterns are matched from the top down, as copies do:
// an exception counts below a directory only if the directory needed it itself.
func (m model) filtered(t *testing.T, top *item, s Selector) []string {
	match := func(patterns []string, rel string) (matched bool) {
		pm, err := patternmatcher.New(patterns)
		must(t, err)
		var above patternmatcher.MatchInfo
		for i := range len(rel + "/") {
			if (rel + "/")[i] == '/' {
				matched, above, err = pm.MatchesUsingParentResults(rel[:i], above)
				must(t, err)
			}
		}
		return matched
	}
	chosen := map[string]bool{}
	for p := range m {
		rel, below := strings.CutPrefix("/"+p, strings.TrimSuffix("/"+top.Path, "/")+"/")
		if !below || rel == "" || len(s.Include) > 0 && !match(s.Include, rel) || match(s.Exclude, rel) {
			continue
		}
		for ; rel != "."; rel = path.Dir(rel) {
			chosen[path.Join(top.Path, rel)] = true
		}
	}
	return slices.Sorted(maps.Keys(chosen))
}

func (m model) entries() []Entry {
	var entries []Entry
	for _, it := range m {
		e := it.Entry
		if e.Mode.IsRegular() {
			e.Size = int64(len(it.content))
			h := NewHash(e)
			h.Write([]byte(it.content))
			e.Digest = digest.NewDigest(digest.SHA256, h).String()
		}
		entries = append(entries, e)
	}
	return entries
}

func (m model) tree(t *testing.T) *Tree {
	tree, err := FromEntries(m.entries())
	must(t, err)
	return tree
}

// write makes the model real, with times that differ each time.
func (m model) write(t *testing.T) string {
	root := t.TempDir()
	for i, p := range slices.Sorted(maps.Keys(m)) {
		it, file := m[p], filepath.Join(root, p)
		switch {
		case p == "":
			must(t, os.Chmod(file, 0o755))
		case it.Mode.IsDir():
			must(t, os.Mkdir(file, 0o755))
		case it.Mode&fs.ModeSymlink != 0:
			must(t, os.Symlink(it.Linkname, file))
		default:
			must(t, os.WriteFile(file, []byte(it.content), 0o644))
		}
		must(t, os.Lchown(file, int(it.UID), int(it.GID)))
		if it.Mode&fs.ModeSymlink == 0 {
			must(t, os.Chmod(file, it.Mode))
		}
		for k, v := range it.Xattrs {
			must(t, unix.Lsetxattr(file, k, v, 0))
		}
		stamp := unix.NsecToTimeval(time.Now().UnixNano() + int64(i))
		must(t, unix.Lutimes(file, []unix.Timeval{stamp, stamp}))
	}
	return root
}

// mutate changes one thing.
func (m model) mutate(r *rand.Rand) {
	keys := slices.Sorted(maps.Keys(m))[1:]
	if len(keys) == 0 {
		return
	}
	p := keys[r.IntN(len(keys))]
	switch r.IntN(7) {
	case 0:
		for q := range m {
			if q == p || strings.HasPrefix(q, p+"/") {
				delete(m, q)
			}
		}
		return
	case 1:
		q := p + "2"
		m[q] = &item{Entry: Entry{Path: q, Mode: 0o600}, content: "new"}
		return
	}
	it := *m[p]
	m[p] = &it
	switch r.IntN(5) {
	case 0:
		it.UID++
	case 1:
		it.GID++
	case 2:
		if it.Mode&fs.ModeSymlink == 0 {
			it.Mode ^= 0o010
		}
	case 3:
		if it.Mode.IsRegular() {
			it.content += "x"
		}
	case 4:
		if it.Mode&fs.ModeSymlink != 0 {
			it.Linkname = randomTarget(r)
		} else {
			it.Xattrs = map[string][]byte{"user.x": {byte(r.IntN(3))}}
		}
	}
}

// modelSeed lets the model be run on other trees.
var modelSeed = flag.Uint64("seed", 1, "seed of the random trees of TestModel")

// TestModel compares digests before and after random changes: they are equal
// exactly if the naive implementation sees no difference.
func TestModel(t *testing.T) {
	t.Parallel()
	seed := *modelSeed
	for i := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, i))
		before := randomModel(r)
		after := maps.Clone(before)
		after.mutate(r)
		for range 20 {
			s := randomSelector(r)
			seenBefore, okBefore := before.read(t, s)
			seenAfter, okAfter := after.read(t, s)
			digestBefore, errBefore := before.tree(t).Digest(t.Context(), []Selector{s})
			digestAfter, errAfter := after.tree(t).Digest(t.Context(), []Selector{s})
			if errors.Is(errBefore, errTooManyLinks) || errors.Is(errAfter, errTooManyLinks) {
				continue
			}
			if okBefore != (errBefore == nil) || okAfter != (errAfter == nil) {
				t.Fatalf("seed %d,%d: %+v: errors %v, %v, want none: %v, %v", seed, i, s, errBefore, errAfter, okBefore, okAfter)
			}
			if errBefore != nil || errAfter != nil {
				continue
			}
			if (digestBefore == digestAfter) != (seenBefore == seenAfter) {
				t.Fatalf("seed %d,%d: %+v: digests %s, %s, but seen\n%s\n%s", seed, i, s, digestBefore, digestAfter, seenBefore, seenAfter)
			}
		}
	}
}

// TestReadsWhatEntriesSay compares a tree on disk with the same from a list.
func TestReadsWhatEntriesSay(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	for i := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, i))
		m := randomModel(r)
		for range 5 {
			m.mutate(r)
		}
		listed, onDisk := m.tree(t), New(m.write(t))
		for range 10 {
			s := randomSelector(r)
			want, wantErr := listed.Digest(t.Context(), []Selector{s})
			got, gotErr := onDisk.Digest(t.Context(), []Selector{s})
			if got != want || fmt.Sprint(gotErr) != fmt.Sprint(wantErr) {
				t.Fatalf("seed %d,%d: %+v: on disk %s (%v), from the list %s (%v)", seed, i, s, got, gotErr, want, wantErr)
			}
		}
	}
}
