package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// machine is a virtual machine. What it writes to its disks is lost at its end.
type machine struct {
	dir          string // for its files
	log          string // gets the kernel's messages
	cpus, memory int
	kernel       kernel
	root, tests  string // disks
}

// accelerators are tried one after the other: some kernels have a KVM that can't run
// an ordinary guest. A guest that can be run says so within this time.
var accelerators = []struct {
	args   []string
	within time.Duration
}{
	{[]string{"-accel", "kvm", "-cpu", "host"}, 15 * time.Second},
	{[]string{"-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max"}, 5 * time.Minute},
}

// errNotUp is that of a guest that didn't start.
var errNotUp = errors.New("the guest didn't start")

// run runs the machine to its end. It fails unless the guest says that its tests
// have passed.
func (m machine) run(ctx context.Context) error {
	var errs []error
	for _, a := range accelerators {
		err := m.start(ctx, a.args, a.within)
		if !errors.Is(err, errNotUp) {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// verdict is the file that the guest writes to: "up", then "exit N".
func (m machine) verdict() string { return filepath.Join(m.dir, "verdict") }

func (m machine) start(ctx context.Context, accel []string, within time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := os.WriteFile(m.verdict(), nil, 0o644); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append(accel, m.args()...)...)
	cmd.Stdout = os.Stdout
	var said strings.Builder
	cmd.Stderr = &said
	began := time.Now()
	watch := time.AfterFunc(within, func() {
		if text, _ := os.ReadFile(m.verdict()); len(text) == 0 {
			cancel(errNotUp)
		}
	})
	defer watch.Stop()
	err := cmd.Run()
	text, _ := os.ReadFile(m.verdict())
	up, code, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	switch {
	case up == "" && (ctx.Err() == nil || errors.Is(context.Cause(ctx), errNotUp)):
		return fmt.Errorf("%w with %s: %v: %s", errNotUp, accel[1], err, strings.TrimSpace(said.String()))
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case code == "exit 0":
		fmt.Printf("all suites passed on %s (%s) in %v\n", m.kernel.release, accel[1], time.Since(began).Round(time.Second))
		return nil
	case code != "":
		return fmt.Errorf("tests failed: %s", code)
	}
	return fmt.Errorf("the guest has ended without a verdict, see %s: %v: %s", m.log, err, said.String())
}

func (m machine) args() []string {
	args := []string{
		"-machine", "q35", "-smp", fmt.Sprint(m.cpus), "-m", fmt.Sprint(m.memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", m.kernel.image(), "-initrd", m.kernel.initramfs(),
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on",
		"-device", "virtio-rng-pci",
		"-serial", "file:" + m.log,
		"-chardev", "stdio,id=out,signal=off", "-chardev", "file,id=verdict,path=" + m.verdict(),
		"-device", "virtio-serial-pci", "-device", "virtconsole,chardev=out",
		"-device", "virtserialport,chardev=verdict,nr=2,name=verdict",
	}
	for _, disk := range []string{m.root, m.tests} {
		args = append(args, "-drive", "if=virtio,format=raw,cache=unsafe,snapshot=on,file="+disk)
	}
	return args
}
