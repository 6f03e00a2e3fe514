package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kiln-build/kiln/nerdctlext/build"
)

// fetchLimit is the time to download a Dockerfile.
const fetchLimit = 30 * time.Second

// dockerfile finds the Dockerfile of a context that is the directory dir.
func (s *sourceFlags) dockerfile(ctx context.Context, p *plan, dir string) error {
	switch len(s.files) {
	case 0:
		name, err := defaultDockerfile(p, dir)
		if err != nil {
			return err
		}
		return s.onDisk(p, filepath.Join(dir, name))
	case 1:
		file := s.files[0]
		if file == "-" || strings.HasPrefix(file, "http://") || strings.HasPrefix(file, "https://") {
			content, err := readDockerfile(ctx, p, dir, file)
			if err != nil {
				return err
			}
			return s.inline(p, "Dockerfile", content)
		}
		path, err := locate(dir, file)
		if err != nil {
			return err
		}
		return s.onDisk(p, path)
	}
	var parts [][]byte
	for _, file := range s.files {
		content, err := readDockerfile(ctx, p, dir, file)
		if err != nil {
			return err
		}
		parts = append(parts, content)
	}
	return s.inline(p, "Dockerfile", bytes.Join(parts, []byte("\n")))
}

// defaultDockerfile returns the name of the Dockerfile in dir.
func defaultDockerfile(p *plan, dir string) (string, error) {
	var found []string
	for _, name := range []string{"Dockerfile", "Containerfile", "dockerfile"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode().IsRegular() {
			found = append(found, name)
		}
	}
	if len(found) == 0 {
		return "", fmt.Errorf("there is no Dockerfile or Containerfile in %s: name one with --file", dir)
	}
	if len(found) > 1 && found[1] == "Containerfile" && !sameContent(filepath.Join(dir, found[0]), filepath.Join(dir, found[1])) {
		p.warn("%s has both a Dockerfile and a Containerfile, which differ; the Dockerfile is used", dir)
	}
	return found[0], nil
}

func sameContent(a, b string) bool {
	one, errOne := os.ReadFile(a)
	other, errOther := os.ReadFile(b)
	return errOne == nil && errOther == nil && bytes.Equal(one, other)
}

// locate finds a Dockerfile by its path, or by its path in the context.
func locate(dir, file string) (string, error) {
	if strings.HasSuffix(file, ".in") {
		return "", fmt.Errorf("%s: preprocessing of .in files is not supported; run cpp first and give its output with --file -", file)
	}
	_, err := os.Stat(file)
	if err == nil {
		return file, nil
	}
	if inside := beside(dir, file); errors.Is(err, os.ErrNotExist) && inside != file {
		if _, insideErr := os.Stat(inside); insideErr == nil {
			return inside, nil
		}
	}
	return "", fmt.Errorf("dockerfile: %w", err)
}

// onDisk offers the directory of the Dockerfile, from which the daemon takes it and its
// ignore file. What is not a plain file there (a link that may lead elsewhere, a pipe)
// is read instead.
func (s *sourceFlags) onDisk(p *plan, path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("dockerfile: %w", err)
	}
	if info.IsDir() {
		return fmt.Errorf("dockerfile %s is a directory", path)
	}
	if info.Mode().IsRegular() && s.ignoreFile == "" {
		p.request.Locals["dockerfile"] = build.Local{Dir: filepath.Dir(path)}
		p.request.Options["filename"] = filepath.Base(path)
		return nil
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("dockerfile: %w", err)
	}
	defer file.Close()
	content, err := readBounded(file, path)
	if err != nil {
		return err
	}
	name := filepath.Base(path)
	if err := s.inline(p, name, content); err != nil || s.ignoreFile != "" {
		return err
	}
	// Its own ignore file goes with it. One that cannot be read counts as none.
	if ignore, err := os.ReadFile(path + ".dockerignore"); err == nil {
		p.request.Locals["dockerfile"].Files[name+".dockerignore"] = ignore
	}
	return nil
}

// readDockerfile reads one of --file into memory.
func readDockerfile(ctx context.Context, p *plan, dir, file string) ([]byte, error) {
	if file == "-" {
		return readBounded(p.env.Stdin, "standard input")
	}
	if strings.HasPrefix(file, "http://") || strings.HasPrefix(file, "https://") {
		return fetch(ctx, file)
	}
	path, err := locate(dir, file)
	if err != nil {
		return nil, err
	}
	open, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer open.Close()
	return readBounded(open, path)
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("dockerfile: %w", err)
	}
	client := http.Client{Timeout: fetchLimit}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("dockerfile: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<10))
		return nil, fmt.Errorf("dockerfile %s: the server says %s", url, response.Status)
	}
	return readBounded(response.Body, url)
}
