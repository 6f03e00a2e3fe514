package boltcheck

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// database makes one with nested buckets, overflowing values and pages that
// were freed.
func database(t testing.TB, options *bolt.Options) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	db, err := bolt.Open(path, 0o600, options)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for round := range 5 {
		err := db.Update(func(tx *bolt.Tx) error {
			for _, name := range []string{"a", "b", fmt.Sprint(round)} {
				b, err := tx.CreateBucketIfNotExists([]byte(name))
				if err != nil {
					return err
				}
				inner, err := b.CreateBucketIfNotExists([]byte("inner"))
				if err != nil {
					return err
				}
				for i := range 300 {
					if err := b.Put(fmt.Appendf(nil, "key %d", i), []byte(strings.Repeat("v", i*round))); err != nil {
						return err
					}
				}
				if err := inner.Put([]byte("large"), make([]byte, 50_000)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestWhole(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]*bolt.Options{
		"default": nil, "no freelist": {NoFreelistSync: true}, "large pages": {PageSize: 16384},
	} {
		if err := File(database(t, options)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := File(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
}

func TestDamaged(t *testing.T) {
	t.Parallel()
	whole, err := os.ReadFile(database(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "db")
	for name, damage := range map[string]func(dt []byte) []byte{
		"cut":            func(dt []byte) []byte { return dt[:len(dt)/2] },
		"a page is left": func(dt []byte) []byte { return dt[:4096] },
		"a few bytes":    func(dt []byte) []byte { return dt[:10] },
		"garbage":        func(dt []byte) []byte { return []byte(strings.Repeat("garbage ", len(dt)/8)) },
		"garbage inside": func(dt []byte) []byte { return append(dt[:8192:8192], strings.Repeat("garbage ", len(dt)/8)...) },
		"zeros":          func(dt []byte) []byte { return make([]byte, len(dt)) },
	} {
		if err := os.WriteFile(path, damage(append([]byte(nil), whole...)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := File(path); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzFile: nothing that a file may have in it is a panic, and what passes can be
// opened and read.
func FuzzFile(f *testing.F) {
	whole, err := os.ReadFile(database(f, &bolt.Options{NoFreelistSync: true}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint64(1), 3)
	f.Add(uint64(2), 3000)
	f.Fuzz(func(t *testing.T, seed uint64, n int) {
		dt := append([]byte(nil), whole...)
		random := rand.New(rand.NewPCG(seed, 0))
		for range min(max(n, 0), 10_000) {
			dt[random.IntN(len(dt))] = byte(random.IntN(256))
		}
		path := filepath.Join(t.TempDir(), "db")
		if err := os.WriteFile(path, dt, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := File(path); err != nil && !errdefs.IsDataLoss(err) {
			t.Error(err)
		}
	})
}
