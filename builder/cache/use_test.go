package cache

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// TestUses: how a record was of use adds up, is there after the table was open
// before, and begins anew with the record.
func TestUses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache.db")
	tab := open(t, path)
	made := Record{
		ID: "a", Description: Description{Kind: Regular, Text: "text"}, Outputs: []string{"x"}, Parents: []ID{"p"}, Step: "step", Op: "op",
		Parts: []Part{{"n", "v"}}, Inputs: []Input{{Record: "p", Selector: "/s"}}, Created: time.Now().UTC().Round(0),
	}
	if err := tab.Put(made); err != nil {
		t.Fatal(err)
	}
	// An older kiln wrote uses into the record.
	old := made
	old.ID, old.Uses, old.LastUsed = "old", 5, made.Created
	dt, err := json.Marshal(old)
	if err != nil {
		t.Fatal(err)
	}
	if err := tab.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketRecords).Put([]byte("old"), dt) }); err != nil {
		t.Fatal(err)
	}
	check := func(uses map[ID]int) {
		t.Helper()
		all, err := tab.Before(time.Now())
		brief, berr := tab.Brief()
		if err != nil || berr != nil || len(all) != len(uses) || len(brief) != len(uses) {
			t.Fatalf("%v, %v; %v, %v", all, err, brief, berr)
		}
		for i, r := range all {
			if r.Uses != uses[r.ID] || r.LastUsed.IsZero() != (r.Uses == 0) {
				t.Errorf("%s: %d uses, the last %v; want %d", r.ID, r.Uses, r.LastUsed, uses[r.ID])
			}
			if got, err := tab.Get(r.ID); err != nil || !reflect.DeepEqual(got, r) {
				t.Errorf("Get gives %+v, %v, Before %+v", got, err, r)
			}
			r.Parts, r.Inputs = nil, nil
			if !reflect.DeepEqual(brief[i], r) {
				t.Errorf("brief %+v of %+v", brief[i], r)
			}
		}
	}
	check(map[ID]int{"a": 0, "old": 5})
	if none, err := tab.Before(made.Created); err != nil || len(none) > 0 {
		t.Errorf("%+v, %v were made before the first", none, err)
	}
	tab.Acquire("a")
	tab.Acquire("a")
	tab.Acquire("old")
	tab.Acquire("gone")
	check(map[ID]int{"a": 2, "old": 6})
	tab.Acquire("a")
	if err := tab.Close(); err != nil {
		t.Fatal(err)
	}
	tab = open(t, path)
	defer tab.Close()
	check(map[ID]int{"a": 3, "old": 6})
	if err := tab.Put(made); err != nil {
		t.Fatal(err)
	}
	check(map[ID]int{"a": 0, "old": 6})
	if err := tab.Remove("old"); err != nil {
		t.Fatal(err)
	}
	if err := tab.Put(Record{ID: "old"}); err != nil {
		t.Fatal(err)
	}
	check(map[ID]int{"a": 0, "old": 0})
}
