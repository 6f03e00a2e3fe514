package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// tools are the pinned programs that tests run.
var tools = []string{"containerd", "containerd-shim-runc-v2", "ctr", "crictl", "runc", "registry", "buildctl", "buildx", "rootlesskit"}

// testDisk makes the disk in dir that the guest has as /kiln: the checkout, kiln's programs
// and the tests of the suites, compiled.
func testDisk(ctx context.Context, dir string, o options) (string, error) {
	tree := filepath.Join(dir, "tests")
	defer os.RemoveAll(tree)
	out, err := exec.CommandContext(ctx, "git", "ls-files").Output()
	if err != nil {
		return "", fmt.Errorf("files of the checkout: %w", err)
	}
	files := strings.Split(strings.TrimSpace(string(out)), "\n")
	for _, name := range []string{"kilnd", "kiln", "kiln-init"} {
		files = append(files, "bin/"+name)
	}
	for _, name := range tools {
		files = append(files, "bin/tools/"+name)
	}
	for _, name := range files {
		to := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return "", err
		}
		if info, err := os.Lstat(name); err != nil || !info.Mode().IsRegular() {
			continue // removed, or a link
		}
		if err := copyFile(name, to); err != nil {
			return "", err
		}
	}
	if err := errors.Join(compile(ctx, o, tree), runtimes(o, tree), os.WriteFile(filepath.Join(tree, "run"), []byte(script(o)), 0o755)); err != nil {
		return "", err
	}
	disk := filepath.Join(dir, "tests.ext4")
	return disk, makeDisk(ctx, tree, disk, 4<<10)
}

// compile compiles the tests of each package once.
func compile(ctx context.Context, o options, tree string) error {
	done := map[string]bool{}
	for _, s := range o.suites {
		if done[s.pkg] {
			continue
		}
		done[s.pkg] = true
		program := filepath.Join(tree, s.pkg, path.Base(s.pkg)+".test")
		cmd := exec.CommandContext(ctx, "go", "test", "-c", "-ldflags=-s -w", "-o", program, "./"+s.pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("compile the tests of %s: %w\n%s", s.pkg, err, out)
		}
	}
	return nil
}

// runtimes makes a folder for each runtime that stands in runc's place.
func runtimes(o options, tree string) error {
	for _, s := range o.suites {
		if s.runtime == "" {
			continue
		}
		dir := filepath.Join(tree, "as", s.runtime)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := ignoreExisting(os.Symlink("/usr/bin/"+s.runtime, filepath.Join(dir, "runc"))); err != nil {
			return err
		}
	}
	return nil
}
