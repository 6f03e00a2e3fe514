package main

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// writeTree makes n files of 2 KiB, a hundred in each folder.
func writeTree(root string, n int) error {
	random := words(1)
	text := make([]byte, 2048)
	for i := range n {
		dir := filepath.Join(root, fmt.Sprintf("d%03d", i/100))
		if i%100 == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		if _, err := io.ReadFull(random, text); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%02d", i%100)), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// writeData makes one file of size bytes that gzip halves, as it does programs.
func writeData(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyN(f, words(2), size); err != nil {
		return err
	}
	return f.Close()
}

func copyFile(to, from string, mode os.FileMode) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, mode)
}

// words is an endless text of random words out of a fixed vocabulary; the same
// seed gives the same text.
func words(seed uint64) io.Reader {
	random := rand.New(rand.NewPCG(seed, seed))
	vocabulary := make([][]byte, 4096)
	for i := range vocabulary {
		word := make([]byte, 3+random.IntN(8))
		for j := range word {
			word[j] = byte(random.IntN(256))
		}
		vocabulary[i] = word
	}
	return bufio.NewReaderSize(&wordReader{random: random, vocabulary: vocabulary}, 64<<10)
}

type wordReader struct {
	random     *rand.Rand
	vocabulary [][]byte
}

// Read never fails and never gives part of a word, so p must be larger than one.
func (r *wordReader) Read(p []byte) (n int, err error) {
	for {
		word := r.vocabulary[r.random.IntN(len(r.vocabulary))]
		if n+len(word) > len(p) {
			return n, nil
		}
		n += copy(p[n:], word)
	}
}
