package command

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/kiln-build/kiln/nerdctlext"
	"github.com/kiln-build/kiln/nerdctlext/build"
)

// sourceFlags say what is built: the context, the Dockerfile, the stage.
type sourceFlags struct {
	files      []string
	ignoreFile string
	target     string
	contexts   []string
}

func (s *sourceFlags) register(flags *pflag.FlagSet) {
	flags.StringArrayVarP(&s.files, "file", "f", nil, "`Dockerfile`, - for standard input (default: Dockerfile or Containerfile in the context); several are joined")
	flags.StringVar(&s.target, "target", "", "`stage` to build (default: the last)")
	flags.StringArrayVar(&s.contexts, "build-context", nil, "further context: `NAME=DIR`, URL, docker-image://IMAGE or oci-layout://DIR[:TAG][@DIGEST]")
	flags.StringVar(&s.ignoreFile, "ignorefile", "", "`file` to use in place of .dockerignore")
}

func (s *sourceFlags) apply(ctx context.Context, p *plan) error {
	p.set("target", s.target)
	where := "."
	switch {
	case len(p.args) == 1:
		where = p.args[0]
	case len(s.files) == 1 && s.files[0] == "-":
		where, s.files = "-", nil
	}
	if err := s.context(ctx, p, where); err != nil {
		return err
	}
	for _, text := range s.contexts {
		if err := addContext(p, text); err != nil {
			return fmt.Errorf("build-context %s: %w", text, err)
		}
	}
	return nil
}

// context tells the daemon where the files and the Dockerfile are.
func (s *sourceFlags) context(ctx context.Context, p *plan, where string) error {
	switch {
	case where == "":
		return errors.New("the context is empty: name a directory, a URL or -")
	case where == "-":
		return s.fromStdin(p)
	case isRemote(where):
		p.request.Options["context"] = where
		return s.insideContext(p)
	}
	info, err := os.Stat(where)
	if err != nil {
		return fmt.Errorf("context: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("context %s is not a directory: to build from an archive, give it on standard input and - as the context", where)
	}
	p.request.Locals["context"] = build.Local{Dir: where}
	return s.dockerfile(ctx, p, where)
}

// isRemote tells a URL or a git address from a path.
func isRemote(where string) bool {
	if strings.Contains(where, "://") {
		return true
	}
	if _, err := os.Stat(where); err == nil {
		return false
	}
	return strings.HasPrefix(where, "git@") || strings.HasPrefix(where, "github.com/")
}

// fromStdin takes an archive as the context, or anything else as the Dockerfile of an
// empty one.
func (s *sourceFlags) fromStdin(p *plan) error {
	for _, file := range s.files {
		if file == "-" {
			return errors.New("standard input cannot be both the context and the Dockerfile: give one of them a path")
		}
	}
	if nerdctlext.IsTerminal(p.env.Stdin) {
		return errors.New("standard input is a terminal: redirect an archive or a Dockerfile into it")
	}
	in := bufio.NewReader(p.env.Stdin)
	head, err := in.Peek(archiveHead)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("standard input: %w", err)
	}
	if isArchive(head) {
		p.request.Uploads = map[string]io.ReadCloser{"context": io.NopCloser(in)}
		return s.insideContext(p)
	}
	if len(s.files) > 0 {
		return errors.New("standard input holds no archive, which the Dockerfile named by --file could be used with")
	}
	content, err := readBounded(in, "standard input")
	if err != nil {
		return err
	}
	p.request.Locals["context"] = build.Local{Files: map[string][]byte{}}
	return s.inline(p, "Dockerfile", content)
}

// insideContext is for a context that the daemon fetches: --file is a path in it, unless
// it is standard input.
func (s *sourceFlags) insideContext(p *plan) error {
	if s.ignoreFile != "" {
		return errors.New("ignorefile needs a context that is a directory")
	}
	switch {
	case len(s.files) > 1:
		return errors.New("several --file need a context that is a directory")
	case len(s.files) == 1 && s.files[0] == "-":
		content, err := readBounded(p.env.Stdin, "standard input")
		if err != nil {
			return err
		}
		p.request.Options["dockerfilekey"] = "dockerfile"
		return s.inline(p, "Dockerfile", content)
	case len(s.files) == 1:
		p.request.Options["filename"] = s.files[0]
	}
	return nil
}

// inline gives the Dockerfile from memory, with its own ignore file if one is asked for.
func (s *sourceFlags) inline(p *plan, name string, content []byte) error {
	files := map[string][]byte{name: content}
	if s.ignoreFile != "" {
		file, err := os.Open(s.ignoreFile)
		if err != nil {
			return fmt.Errorf("ignorefile: %w", err)
		}
		defer file.Close()
		if files[name+".dockerignore"], err = readBounded(file, s.ignoreFile); err != nil {
			return err
		}
	}
	p.request.Locals["dockerfile"] = build.Local{Files: files}
	p.request.Options["filename"] = name
	return nil
}

// archiveHead is how much of a stream tells whether it is an archive: a tar's magic ends
// at byte 262.
const archiveHead = 262

func isArchive(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	return len(head) >= archiveHead && string(head[257:262]) == "ustar"
}

// maxDockerfile bounds a Dockerfile or ignore file that is held in memory, in bytes.
const maxDockerfile = 16 << 20

func readBounded(in io.Reader, name string) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(in, maxDockerfile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(content) > maxDockerfile {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxDockerfile)
	}
	return content, nil
}

// beside returns the path of file in the directory, unless it is absolute.
func beside(dir, file string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(dir, file)
}
