package cache

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func open(t *testing.T, path string) *Table {
	t.Helper()
	tab, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func lookup(t *testing.T, tab *Table, k Key) ID {
	t.Helper()
	id, err := tab.Lookup(k)
	if err != nil {
		t.Fatal(err)
	}
	if id != "" {
		tab.Release(id)
	}
	return id
}

func TestTable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache.db")
	tab := open(t, path)
	if err := tab.Put(Record{ID: "a", Outputs: []string{"x", ""}}, "a", "k1"); err != nil {
		t.Fatal(err)
	}
	if err := tab.Put(Record{ID: "ab"}, "ab"); err != nil {
		t.Fatal(err)
	}
	if err := tab.Bind("ab", "k2", "k3"); err != nil {
		t.Fatal(err)
	}
	if err := tab.Bind("a", "k3"); err != nil {
		t.Fatal(err)
	}
	if err := tab.Bind("nobody", "k4"); !errdefs.IsNotFound(err) {
		t.Errorf("binding to no record: %v", err)
	}
	check := func(want map[Key]ID) {
		t.Helper()
		for k, id := range want {
			if got := lookup(t, tab, k); got != id {
				t.Errorf("key %s leads to %q, want %q", k, got, id)
			}
		}
	}
	check(map[Key]ID{"a": "a", "k1": "a", "ab": "ab", "k2": "ab", "k3": "a", "k4": ""})

	if err := tab.Close(); err != nil {
		t.Fatal(err)
	}
	tab = open(t, path)
	defer tab.Close()
	check(map[Key]ID{"k1": "a", "k2": "ab", "k3": "a"})
	r, err := tab.Get("a")
	if err != nil || len(r.Outputs) != 2 || r.Outputs[0] != "x" || r.Uses == 0 || r.LastUsed.IsZero() {
		t.Errorf("got %+v, %v", r, err)
	}

	tab.Acquire("a")
	if err := tab.Remove("a"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("removing a record in use: %v", err)
	}
	tab.Release("a")
	if err := tab.Remove("a"); err != nil {
		t.Fatal(err)
	}
	check(map[Key]ID{"a": "", "k1": "", "k3": "", "k2": "ab", "ab": "ab"})
	if _, err := tab.Get("a"); !errdefs.IsNotFound(err) {
		t.Errorf("a removed record: %v", err)
	}
	all, err := tab.Brief()
	if err != nil || len(all) != 1 || all[0].ID != "ab" {
		t.Errorf("got %v, %v", all, err)
	}
}

func TestOpenDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 2000)), 0o600); err != nil {
		t.Fatal(err)
	}
	tab := open(t, path)
	defer tab.Close()
	if err := tab.Put(Record{ID: "a"}, "a"); err != nil {
		t.Fatal(err)
	}
}

// TestOpenAfterCrash: what was open when the machine went down isn't trusted;
// what was closed is, and what only the process left open.
func TestOpenAfterCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache.db")
	tab := open(t, path)
	if err := tab.Put(Record{ID: "a"}, "a"); err != nil {
		t.Fatal(err)
	}
	if err := tab.db.Close(); err != nil { // the process was killed
		t.Fatal(err)
	}
	tab = open(t, path)
	if lookup(t, tab, "a") != "a" {
		t.Error("a killed process cost the table")
	}
	if err := tab.db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".open", []byte("another boot"), 0o600); err != nil {
		t.Fatal(err)
	}
	tab = open(t, path)
	defer tab.Close()
	if lookup(t, tab, "a") != "" {
		t.Error("the table is trusted after a crash of the machine")
	}
}

func TestKeys(t *testing.T) {
	a := []Input{{Record: "r", Output: 1, Selector: "s"}}
	seen := map[Key]string{}
	for name, k := range map[string]Key{
		"definition":      DefinitionKey("op", a),
		"other op":        DefinitionKey("op2", a),
		"other output":    DefinitionKey("op", []Input{{Record: "r", Output: 2, Selector: "s"}}),
		"other selector":  DefinitionKey("op", []Input{{Record: "r", Output: 1, Selector: "t"}}),
		"shifted fields":  DefinitionKey("op", []Input{{Record: "rs", Output: 1, Selector: ""}}),
		"no input":        DefinitionKey("op", nil),
		"content":         ContentKey("op", []Input{{Record: "r", Content: "c", Selector: "s"}}),
		"other content":   ContentKey("op", []Input{{Record: "r", Content: "d", Selector: "s"}}),
		"content as id":   ContentKey("op", []Input{{Record: "c", Selector: "s"}}),
		"fresh":           FreshKey(DefinitionKey("op", a), "1"),
		"fresh elsewhere": FreshKey(DefinitionKey("op", a), "2"),
	} {
		if other, ok := seen[k]; ok {
			t.Errorf("%s and %s have the same key", name, other)
		}
		seen[k] = name
	}
	if ContentKey("op", []Input{{Record: "r", Content: "c"}}) != ContentKey("op", []Input{{Record: "q", Output: 3, Content: "c"}}) {
		t.Error("an input that counts by content counts by its record too")
	}
}

func TestSelect(t *testing.T) {
	now := time.Unix(1e9, 0)
	ago := func(h int) *time.Time { at := now.Add(-time.Duration(h) * time.Hour); return &at }
	const mb = 1 << 20
	all := []Usage{
		{ID: "base", Size: 50 * mb, LastUsed: ago(100), Type: Regular},
		{ID: "step", Size: 20 * mb, LastUsed: ago(90), Type: Regular, Parents: []string{"base"}},
		{ID: "new", Size: 30 * mb, LastUsed: ago(1), Type: Regular},
		{ID: "busy", Size: 10 * mb, LastUsed: ago(80), InUse: true, Type: Regular},
		{ID: "mount", Size: 5 * mb, LastUsed: ago(70), Mutable: true, Type: CacheMount},
		{ID: "inner", Size: 1 * mb, LastUsed: ago(200), Type: Internal},
		{ID: "shared", Size: 7 * mb, LastUsed: ago(200), Shared: true, Type: Regular},
	}
	for name, tc := range map[string]struct {
		p    Policy
		disk Disk
		want string
	}{
		"no limits":       {Policy{}, Disk{}, "step base mount new"},
		"everything":      {Policy{All: true}, Disk{}, "inner shared step base mount new"},
		"a filter":        {Policy{Filters: []string{"type==exec.cachemount", "id==new"}}, Disk{}, "mount new"},
		"and":             {Policy{Filters: []string{"type==regular,id==new"}}, Disk{}, "new"},
		"kept 72 hours":   {Policy{KeepDuration: 72 * time.Hour}, Disk{}, "step base"},
		"a maximum":       {Policy{MaxUsedSpace: 80 * mb}, Disk{}, "step base"},
		"below maximum":   {Policy{MaxUsedSpace: 900 * mb}, Disk{}, ""},
		"reserved":        {Policy{MaxUsedSpace: 10 * mb, ReservedSpace: 90 * mb}, Disk{}, "step base"},
		"enough free":     {Policy{MinFreeSpace: 10 * mb}, Disk{Free: 20 * mb}, ""},
		"too little free": {Policy{MinFreeSpace: 30 * mb}, Disk{Free: 20 * mb}, "step"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Select(all, tc.p, tc.disk, now)
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, u := range got {
				ids = append(ids, u.ID)
			}
			if s := strings.Join(ids, " "); s != tc.want {
				t.Errorf("removes %q, want %q", s, tc.want)
			}
		})
	}
	if _, err := Select(all, Policy{Filters: []string{"id=="}}, Disk{}, now); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a bad filter: %v", err)
	}
}

func TestParseSize(t *testing.T) {
	disk := Disk{Total: 1000}
	for in, want := range map[string]int64{"0": 0, "17": 17, "512MB": 512 << 20, "1.5g": 3 << 29, "2KiB": 2048, "10%": 100, "3 TB": 3 << 40} {
		if got, err := ParseSize(in, disk); err != nil || got != want {
			t.Errorf("%q is %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "MB", "-1", "x", "101%", "9999999999TB", "1XB"} {
		if got, err := ParseSize(in, disk); err == nil {
			t.Errorf("%q is %d", in, got)
		}
	}
}
