package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// unused are the pinned programs that no test runs.
var unused = []string{"benchstat", "buildkitd", "golangci-lint", "gotestsum", "kube-apiserver"}

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
	programs, err := fs.Glob(os.DirFS("."), "bin/tools/*")
	more, err2 := fs.Glob(os.DirFS("."), "bin/tools/*/*")
	if err := errors.Join(err, err2); err != nil {
		return "", err
	}
	files = append(files, slices.DeleteFunc(append(programs, more...), func(name string) bool { return slices.Contains(unused, path.Base(name)) })...)
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

// flags are what a runtime needs to be told in a virtual machine.
var flags = map[string]string{"runsc": "--platform=ptrace --network=none --net-raw"}

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
		text := fmt.Sprintf("#!/bin/sh\nexec /usr/bin/%s %s \"$@\"\n", s.runtime, flags[s.runtime])
		if err := os.WriteFile(filepath.Join(dir, "runc"), []byte(text), 0o755); err != nil {
			return err
		}
	}
	return nil
}
