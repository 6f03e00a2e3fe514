package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestWords(t *testing.T) {
	text := func(seed uint64) []byte {
		b, err := io.ReadAll(io.LimitReader(words(seed), 1e6))
		if err != nil || len(b) != 1e6 {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		return b
	}
	if !bytes.Equal(text(1), text(1)) {
		t.Error("not the same text for the same seed")
	}
	if bytes.Equal(text(1), text(2)) {
		t.Error("the same text for two seeds")
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(text(1))
	z.Close()
	if n := packed.Len(); n < 2e5 || n > 7e5 {
		t.Errorf("gzip makes %d bytes of 1e6: neither like a program nor like a text", n)
	}
}

func TestWriteTree(t *testing.T) {
	root := t.TempDir()
	if err := writeTree(root, 250); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, "d*", "f*"))
	if err != nil || len(files) != 250 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	if info, err := os.Stat(filepath.Join(root, "d002", "f49")); err != nil || info.Size() != 2048 {
		t.Errorf("the last file: %v, %v", info, err)
	}
}

func TestDockerfiles(t *testing.T) {
	if got := steps(2, "RUN true %d"); got != "RUN true 0\nRUN true 1\n" {
		t.Errorf("steps: %q", got)
	}
	if got := numbered("RUN NONCE 1\nRUN NONCE 2\n", 7); got != "RUN NONCE-7 1\nRUN NONCE-7 2\n" {
		t.Errorf("numbered: %q", got)
	}
	const want = "FROM BASE AS s0\nRUN sleep 0.3 && echo NONCE > /out\nFROM BASE\nCOPY --from=s0 /out /out0\n"
	if got := parallelStages(1); got != want {
		t.Errorf("stages: %q", got)
	}
}
