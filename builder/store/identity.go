package store

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"regexp"
	"strings"
)

var identity = regexp.MustCompile(`^[a-z0-9]{16,64}$`)

// Identity returns the id that a file keeps: random, of a-z and 0-9, by which
// the owner of a directory knows in containerd what it has made. One that is
// absent or damaged is made anew.
func Identity(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if id := strings.TrimSpace(string(data)); identity.MatchString(id) {
		return id, nil
	}
	id := strings.ToLower(rand.Text())
	return id, os.WriteFile(file, []byte(id+"\n"), 0o600)
}
