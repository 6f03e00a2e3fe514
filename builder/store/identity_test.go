package store

import (
	"os"
	"path/filepath"
	"testing"
)

func TestIdentity(t *testing.T) {
	file := filepath.Join(t.TempDir(), "id")
	first, err := Identity(file)
	if err != nil || !identity.MatchString(first) {
		t.Fatalf("%q, %v", first, err)
	}
	if again, err := Identity(file); err != nil || again != first {
		t.Errorf("%q, %v, want %q again", again, err, first)
	}
	for _, damage := range []string{"", "\x00\x00\x00", first + "garbage >| |< x", first[:5]} {
		if err := os.WriteFile(file, []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		if id, err := Identity(file); err != nil || !identity.MatchString(id) || id == first {
			t.Errorf("of %q: %q, %v", damage, id, err)
		}
	}
}
