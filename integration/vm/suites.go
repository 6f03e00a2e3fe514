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
	// systemd is the machine's first process, and the tests are a service of its.
	systemd bool
}

var suites = []suite{
	{name: "sandbox", what: "processes by kiln-init, runc, and tasks of containerd", pkg: "builder/sandbox"},
	{name: "crun", what: "processes by crun", pkg: "builder/sandbox", run: "TestRunc|TestTasks|TestCancel|TestNoLeaks|TestReconcile|TestKilled", runtime: "crun"},
	{name: "systemd", what: "processes in cgroups that systemd makes", pkg: "builder/sandbox", run: "(TestNative|TestRunc)/(cgroup_parents|limits|memory_limit|usage|cancel)", systemd: true},
	{name: "systemd-crun", what: "the same by crun", pkg: "builder/sandbox", run: "TestRunc/(cgroup_parents|limits|memory_limit|usage|cancel)", runtime: "crun", systemd: true},
	{name: "runsc", what: "processes by gVisor's runsc: all but signals, cancelled exec, limits and what a kernel of its own shows otherwise", pkg: "builder/sandbox", runtime: "runsc",
		run: "TestRunc/(success|exit_code|streams|environment|host|working_directory|users|^cancel|bind_mounts|tmpfs|exec_at|exec_term|exec_waits|exec_un|terminal|network_none|readonly|ended)"},
	{name: "meter", what: "what processes use", pkg: "builder/sandbox/meter"},
	{name: "cni", what: "networks", pkg: "builder/sandbox/cni"},
	{name: "limits", what: "limits of the daemon's configuration, and a hundred steps at once", pkg: "integration", run: "TestLimits|TestHundredSteps"},
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
	if o.losses > 0 {
		fmt.Fprintln(&text, power)
	}
	for _, s := range o.suites {
		fmt.Fprintf(&text, "echo %s\n", quoted("=== "+s.name+": "+s.what))
		args := []string{"./" + path.Base(s.pkg) + ".test", "-test.timeout=50m", "-test.parallel=1"}
		if o.verbose {
			args = append(args, "-test.v")
		}
		if o.run != "" {
			s.run, s.skip = o.run, ""
		}
		for flag, value := range map[string]string{"run": s.run, "skip": s.skip} {
			if value != "" {
				args = append(args, "-test."+flag+"="+quoted(value))
			}
		}
		if o.losses > 0 {
			args = append(args, "-power=/state", `-power-ready="$VERDICT"`, `-power-last=$last`)
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

// quoted is a word for a shell.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// power is the part of the script for a machine that loses its power.
const power = `mkdir /state && mount /dev/vdc /state || exit
last=false
grep -q kiln.last /proc/cmdline && last=true`
