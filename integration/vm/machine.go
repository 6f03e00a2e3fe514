package main

import (
	"bytes"
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
	root, tests  string // disks, of which the guest gets copies
	state        string // a disk in the format qcow2, if not ""
	// losePowerIn is how long after it says that it is ready the machine is killed; 0
	// is not to.
	losePowerIn time.Duration
	notes       []string // on the kernel's command line
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

// accelerator is the first one of them that works.
var accelerator int

// errNotUp is that of a guest that didn't start.
var errNotUp = errors.New("the guest didn't start")

// run runs the machine to its end. It fails unless the guest says that its tests
// have passed.
func (m machine) run(ctx context.Context) error {
	var errs []error
	for ; accelerator < len(accelerators); accelerator++ {
		a := accelerators[accelerator]
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
	go m.watch(ctx, cancel, within)
	err := cmd.Run()
	text, _ := os.ReadFile(m.verdict())
	code := string(text[bytes.LastIndexByte(bytes.TrimSpace(text), '\n')+1:])
	switch code = strings.TrimSpace(code); {
	case len(text) == 0 && (ctx.Err() == nil || errors.Is(context.Cause(ctx), errNotUp)):
		return errors.Join(fmt.Errorf("%w with %s: %s", errNotUp, accel[1], strings.TrimSpace(said.String())), err)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case code == "exit 0":
		fmt.Printf("all suites passed on %s (%s) in %v\n", m.kernel.release, accel[1], time.Since(began).Round(time.Second))
		return nil
	case strings.HasPrefix(code, "exit"):
		return fmt.Errorf("tests failed: %s", code)
	}
	return errors.Join(fmt.Errorf("the guest has ended without a verdict, see %s: %s", m.log, said.String()), err)
}

// watch ends the machine when it doesn't start, or when it is to lose its power.
func (m machine) watch(ctx context.Context, end context.CancelCauseFunc, within time.Duration) {
	late := time.After(within)
	for {
		select {
		case <-ctx.Done():
			return
		case <-late:
			if m.said("up") {
				break
			}
			end(errNotUp)
		case <-time.After(50 * time.Millisecond):
			if m.losePowerIn > 0 && m.said("ready") {
				time.Sleep(m.losePowerIn)
				end(errPower)
				return
			}
		}
	}
}

// said tells whether the guest has said that.
func (m machine) said(word string) bool {
	text, err := os.ReadFile(m.verdict())
	return err == nil && bytes.Contains(text, []byte(word))
}

func (m machine) args() []string {
	args := []string{
		"-machine", "q35", "-smp", fmt.Sprint(m.cpus), "-m", fmt.Sprint(m.memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", m.kernel.image(), "-initrd", m.kernel.initramfs(),
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on " + strings.Join(m.notes, " "),
		"-device", "virtio-rng-pci",
		"-serial", "file:" + m.log,
		"-chardev", "stdio,id=out,signal=off", "-chardev", "file,id=verdict,path=" + m.verdict(),
		"-device", "virtio-serial-pci", "-device", "virtconsole,chardev=out",
		"-device", "virtserialport,chardev=verdict,nr=2,name=verdict",
	}
	for _, disk := range []string{m.root, m.tests} {
		args = append(args, "-drive", "if=virtio,format=raw,cache=unsafe,snapshot=on,file="+disk)
	}
	if m.state != "" {
		// Flushes reach the file, but needn't reach this machine's disk.
		args = append(args, "-drive", "if=virtio,format=qcow2,cache=unsafe,file="+m.state)
	}
	return args
}
