package checksum

import (
	"bytes"
	"context"
	"io/fs"
	"math/rand/v2"
	"testing"
	"time"
)

func TestEncodeComplete(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	for i := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, i))
		tree := randomModel(r).tree(t)
		s := randomSelector(r)
		want, wantErr := tree.Digest(t.Context(), []Selector{s})
		data := tree.Encode()
		again, err := Decode(data, nil)
		must(t, err)
		if !bytes.Equal(again.Encode(), data) {
			t.Fatalf("seed %d,%d: encoding what was decoded gives other bytes", seed, i)
		}
		got, gotErr := again.Digest(t.Context(), []Selector{s})
		if got != want || (gotErr == nil) != (wantErr == nil) {
			t.Fatalf("seed %d,%d: %+v: decoded %s (%v), want %s (%v)", seed, i, s, got, gotErr, want, wantErr)
		}
	}
}

func TestEncodeUnread(t *testing.T) {
	t.Parallel()
	root := spec(t, "d", "d/f=1", "other", "other/g=2", "l->d/f")
	mount := func(context.Context) (string, func(), error) { return root, func() {}, nil }
	tree := NewLazy(mount)
	get(t, tree, Selector{Path: "l", FollowLinks: true})
	again, err := Decode(tree.Encode(), mount)
	must(t, err)
	if got, want := get(t, again, Selector{}), get(t, New(root), Selector{}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	without, err := Decode(tree.Encode(), nil)
	must(t, err)
	if got, want := get(t, without, Selector{Path: "d/f"}), get(t, tree, Selector{Path: "d/f"}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if _, err := without.Digest(t.Context(), nil); err == nil {
		t.Error("a digest of what was never read")
	}
}

func TestFromEntriesRefuses(t *testing.T) {
	t.Parallel()
	file := Entry{Path: "f", Mode: 0o644}
	for name, entries := range map[string][]Entry{
		"no directory":         {{Path: "a/f", Mode: 0o644}},
		"file as directory":    {file, {Path: "f/g", Mode: 0o644}},
		"twice":                {file, {Path: "/f/", Mode: 0o644}},
		"dots":                 {{Path: "../f", Mode: 0o644}},
		"nul":                  {{Path: "f\x00", Mode: 0o644}},
		"no digest":            {{Path: "f", Mode: 0o644, Size: 1}},
		"bad digest":           {{Path: "f", Mode: 0o644, Digest: "sha256:zz"}},
		"other algorithm":      {{Path: "f", Mode: 0o644, Digest: "sha512:" + none[7:] + none[7:]}},
		"link to nothing":      {{Path: "f", Mode: 0o644, Linkname: "g"}},
		"link to itself":       {{Path: "f", Mode: 0o644, Linkname: "f"}},
		"link to directory":    {{Path: "f", Mode: 0o644, Linkname: "."}},
		"root is no directory": {{Path: ".", Mode: 0o644}},
	} {
		if _, err := FromEntries(entries); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestFromEntriesHardLink(t *testing.T) {
	t.Parallel()
	tree, err := FromEntries([]Entry{
		{Path: "b", Mode: 0o644, Linkname: "/a"},
		{Path: "a", Mode: 0o644, Size: 5, Digest: data0},
	})
	must(t, err)
	if got := get(t, tree, Selector{Path: "b"}); got != data0 {
		t.Errorf("got %s", got)
	}
}

func FuzzDecode(f *testing.F) {
	tree, err := FromEntries([]Entry{
		{Path: "d", Mode: fs.ModeDir | 0o755}, {Path: "d/f", Mode: 0o644}, {Path: "l", Mode: fs.ModeSymlink, Linkname: "d"},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tree.Encode())
	if _, err := tree.Digest(f.Context(), nil); err != nil {
		f.Fatal(err)
	}
	f.Add(tree.Encode())
	f.Add([]byte(magic + "\x0a\xff\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, data []byte) {
		tree, err := Decode(data, nil)
		if err != nil {
			return
		}
		if !bytes.Equal(tree.Encode(), data) {
			// Only a number may be written in more than one way.
			if again, err := Decode(tree.Encode(), nil); err != nil || !bytes.Equal(again.Encode(), tree.Encode()) {
				t.Errorf("%x: the encoding is not stable: %v", data, err)
			}
		}
		tree.Digest(t.Context(), []Selector{{}, {Path: "d/l", FollowLinks: true}, {Path: "*", Wildcard: true}})
	})
}

func FuzzSelector(f *testing.F) {
	f.Add("/", "", "", true, false)
	f.Add("d*/../..", "**/*.go", "!a", false, true)
	f.Add("[a-", "[", "\\", true, true)
	tree, err := FromEntries([]Entry{
		{Path: "d", Mode: fs.ModeDir | 0o755}, {Path: "d/f.go", Mode: 0o644}, {Path: "l", Mode: fs.ModeSymlink, Linkname: "../d"},
		{Path: "loop", Mode: fs.ModeSymlink, Linkname: "/loop/x"},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, p, include, exclude string, wildcard, follow bool) {
		s := Selector{Path: p, Wildcard: wildcard, FollowLinks: follow}
		if include != "" {
			s.Include = []string{include}
		}
		if exclude != "" {
			s.Exclude = []string{exclude}
		}
		one, err1 := tree.Digest(t.Context(), []Selector{s})
		two, err2 := tree.Digest(t.Context(), []Selector{s, s})
		if one != two || (err1 == nil) != (err2 == nil) || (err1 == nil) != (one != "") {
			t.Errorf("%+v: %s (%v), then %s (%v)", s, one, err1, two, err2)
		}
	})
}
