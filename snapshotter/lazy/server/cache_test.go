package server

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What came over the network is forgotten after a while; what was verified, and what
// isn't finished, is not.
func TestForget(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := time.Now().Add(-time.Hour)
	for name, keep := range map[string]bool{
		"httpcache/a/00/old": false, "httpcache/a/00/new": true, "httpcache/a/wip/old": true, "fscache/a/00/old": true,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if filepath.Base(path) == "old" {
			if err := os.Chtimes(path, old, old); err != nil {
				t.Fatal(err)
			}
		}
		if err := forget(dir, time.Minute); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path); (err == nil) != keep {
			t.Errorf("%s: %v", name, err)
		}
	}
}
