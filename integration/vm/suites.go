package main

import (
	"fmt"
	"path"
	"strings"
)

// suite is the tests of one package, or some of them.
type suite struct {
	name, what string
	pkg        string // path in the module
	run, skip  string // regexps of tests, as go test has them
	// runtime is the program in runc's place.
	runtime string
}

var suites = []suite{
	{name: "sandbox", what: "processes by kiln-init, runc, and tasks of containerd", pkg: "builder/sandbox"},
	{name: "crun", what: "processes by crun", pkg: "builder/sandbox", run: "TestRunc|TestTasks|TestCancel|TestNoLeaks|TestReconcile|TestKilled", runtime: "crun"},
	{name: "meter", what: "what processes use", pkg: "builder/sandbox/meter"},
	{name: "cni", what: "networks", pkg: "builder/sandbox/cni"},
	{name: "op", what: "steps", pkg: "builder/op"},
	{name: "layer", what: "layers on this kernel's overlayfs", pkg: "builder/layer"},
	{name: "snapshotter", what: "the snapshotter on this kernel's overlayfs", pkg: "snapshotter"},
}

// script is what the machine runs: all suites, each in its package's folder as go
// test does. The last line that it prints to the port "verdict" is its exit code.
func script(o options) string {
	if o.command != "" {
		return "#!/bin/sh\n" + o.command + "\n"
	}
	var text strings.Builder
	fmt.Fprintln(&text, "#!/bin/sh\nfailed=0")
	for _, s := range o.suites {
		fmt.Fprintf(&text, "echo '=== %s: %s'\n", s.name, s.what)
		args := []string{"./" + path.Base(s.pkg) + ".test", "-test.timeout=50m"}
		if o.verbose {
			args = append(args, "-test.v")
		}
		if o.run != "" {
			s.run, s.skip = o.run, ""
		}
		for flag, value := range map[string]string{"run": s.run, "skip": s.skip} {
			if value != "" {
				args = append(args, fmt.Sprintf("-test.%s='%s'", flag, strings.ReplaceAll(value, "'", `'\''`)))
			}
		}
		as := ""
		if s.runtime != "" {
			as = "PATH=/kiln/as/" + s.runtime + ":$PATH "
		}
		fmt.Fprintf(&text, "(cd /kiln/%s && %s%s) || { failed=1; echo 'FAIL %s'; }\n", s.pkg, as, strings.Join(args, " "), s.name)
	}
	fmt.Fprintln(&text, "exit $failed")
	return text.String()
}
