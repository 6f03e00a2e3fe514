// Command vm runs tests of kiln in a virtual machine: under a kernel of Debian's,
// with cgroup v2 alone and with all capabilities, which the machine that it is
// called on need not have.
//
// The guest's root is made of the files of Debian packages that are installed
// here, its kernel is downloaded with apt. Both are kept below -dir. The tests are
// compiled here and run there one suite after the other; what they print is
// printed, and the command fails if one of them does. What they write is thrown away
// with the machine. Where KVM runs no guests QEMU translates them, which takes about
// ten times as long.
//
// With -losses the machine loses its power again and again while it builds, on a disk
// that loses what wasn't synced.
//
// It runs as root, from the root of the checkout, after make build and make tools.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	dir     string
	kernel  string
	suites  []suite
	run     string
	command string
	verbose bool
	losses  int
	limit   time.Duration
	cpus    int
	memory  int // MiB
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", ".cache/vm", "folder for the disks and logs")
	flag.StringVar(&o.kernel, "kernel", "6.1", "version of the kernel, as in the names of Debian's packages linux-image-VERSION*-cloud-amd64")
	pattern := flag.String("suite", ".", "regexp of the suites to run")
	list := flag.Bool("list", false, "only list the suites")
	flag.StringVar(&o.run, "run", "", "regexp of the tests to run, instead of those of each suite")
	flag.StringVar(&o.command, "command", "", "shell command for the machine to run after the tests have been compiled, instead of them")
	flag.BoolVar(&o.verbose, "v", false, "print all tests")
	flag.IntVar(&o.losses, "losses", 0, "take the power from the machine so often while it builds, instead of the suites")
	flag.DurationVar(&o.limit, "timeout", time.Hour, "limit for all suites")
	flag.IntVar(&o.cpus, "cpus", 2, "processors of the machine")
	flag.IntVar(&o.memory, "memory", 3072, "memory of the machine in MiB")
	flag.Parse()

	match, err := regexp.Compile(*pattern)
	if err != nil {
		fail(err)
	}
	if o.losses > 0 {
		suites = []suite{{name: "power", what: "builds until the power is gone", pkg: "integration/chaos", run: "TestPowerLoss"}}
	}
	for _, s := range suites {
		if match.MatchString(s.name) {
			o.suites = append(o.suites, s)
		}
	}
	if *list {
		for _, s := range o.suites {
			fmt.Printf("%-16s %s\n", s.name, s.what)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeoutCause(ctx, o.limit, fmt.Errorf("the machine took longer than %v", o.limit))
	err = test(ctx, o)
	cancel()
	stop()
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "vm:", err)
	os.Exit(1)
}

// test makes what is missing and runs the suites.
func test(ctx context.Context, o options) error {
	if os.Geteuid() != 0 {
		return errors.New("the disks of the machine have files of root: run it as root")
	}
	if len(o.suites) == 0 {
		return errors.New("no such suite, see -list")
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	k, err := getKernel(ctx, o.dir, o.kernel)
	if err != nil {
		return err
	}
	m := machine{log: filepath.Join(o.dir, "console.log"), cpus: o.cpus, memory: o.memory, kernel: k}
	if m.root, err = rootDisk(ctx, o.dir, k); err != nil {
		return err
	}
	if m.dir, err = os.MkdirTemp(o.dir, "run-"); err != nil {
		return err
	}
	defer os.RemoveAll(m.dir)
	if o.losses > 0 {
		if m.tests, err = testDisk(ctx, m.dir, o); err != nil {
			return err
		}
		return losePower(ctx, o, m)
	}
	var errs []error
	for _, systemd := range []bool{false, true} {
		those := o
		those.suites = slices.DeleteFunc(slices.Clone(o.suites), func(s suite) bool { return s.systemd != systemd })
		if len(those.suites) == 0 {
			continue
		}
		if m.tests, err = testDisk(ctx, m.dir, those); err != nil {
			return err
		}
		if m.notes = nil; systemd {
			m.notes = []string{"kiln.systemd"}
		}
		errs = append(errs, m.run(ctx))
	}
	return errors.Join(errs...)
}
