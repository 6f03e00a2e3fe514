package checksum

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeFiles(t *testing.T, files ...string) *Tree {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		name, text, _ := strings.Cut(f, "=")
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return New(dir)
}

func TestChanges(t *testing.T) {
	t.Parallel()
	before := []string{"a=1", "b=1", "src/x.go=1", "src/y.go=1", "old/1=1", "old/deep/2=1"}
	after := []string{"a=1", "b=2", "src/x.go=2", "src/z.go=1", "new/1=1", "new/deep/2=1"}
	for _, c := range []struct {
		paths []string
		want  string
	}{
		{[]string{"/"}, "[{/b modified} {/new added} {/old removed} {/src/x.go modified} {/src/y.go removed} {/src/z.go added}]"},
		{[]string{"src"}, "[{/src/x.go modified} {/src/y.go removed} {/src/z.go added}]"},
		{[]string{"/src/[xy].go"}, "[{/src/x.go modified} {/src/y.go removed}]"},
		{[]string{"a", "b"}, "[{/b modified}]"},
		{[]string{"a"}, "[]"},
		{[]string{"nothing", "/*/1"}, "[{/new/1 added} {/old/1 removed}]"},
	} {
		got, err := Changes(t.Context(), writeFiles(t, before...), writeFiles(t, after...), c.paths)
		if err != nil {
			t.Fatal(err)
		}
		if s := fmt.Sprint(got); s != c.want {
			t.Errorf("%v: got %s, want %s", c.paths, s, c.want)
		}
	}
}
