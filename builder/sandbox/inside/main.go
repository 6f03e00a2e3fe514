package inside

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	controlFD = 3 // a socket to the daemon
	targetFD  = 4 // a pidfd, to join
)

// exitFailed is the program's exit code if it has written a [Failure].
const exitFailed = 125

// Main carries out the order. The calling goroutine must be locked to the first
// thread of a process that has done nothing else yet. It doesn't return.
func Main() {
	err := become()
	text, jsonErr := json.Marshal(Failure{Reason: err.Error()})
	if jsonErr == nil {
		unix.Write(controlFD, text) //nolint:errcheck // the daemon sees that we ended
	}
	os.Exit(exitFailed)
}

// become returns only if it fails.
func become() error {
	// Those who share the process namespace may not look into this process.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl(PR_SET_DUMPABLE)", err)
	}
	unix.CloseOnExec(controlFD)
	o, err := readOrder()
	if err != nil {
		return err
	}
	p := &o.Process
	if p.OOMScore != nil {
		if err := os.WriteFile("/proc/self/oom_score_adj", fmt.Append(nil, *p.OOMScore), 0); err != nil {
			return err
		}
	}
	if o.Sandbox != nil {
		err = o.Sandbox.enter(p)
	} else {
		err = join(p)
	}
	if err != nil {
		return err
	}
	if err := p.restrict(); err != nil {
		return err
	}
	return p.execute()
}

func readOrder() (*Order, error) {
	var text []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(controlFD, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("read order", err)
		}
		if n == 0 {
			break
		}
		text = append(text, buf[:n]...)
	}
	o := new(Order)
	if err := json.Unmarshal(text, o); err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	return o, nil
}

// join enters the namespaces of a sandbox, but for that of its processes, in which
// this one was made.
func join(p *Process) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	const all = unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP
	if err := unix.Setns(targetFD, all); err != nil {
		return os.NewSyscallError("setns", err)
	}
	unix.Close(targetFD) //nolint:errcheck // it leads nowhere else
	unix.Umask(0o022)
	if !p.Terminal {
		return nil
	}
	_, err := openTerminal()
	return err
}

// execute looks the command up and becomes it.
func (p *Process) execute() error {
	os.Clearenv()
	for _, v := range p.Env {
		if len(v) > 5 && v[:5] == "PATH=" {
			os.Setenv("PATH", v[5:]) //nolint:errcheck // there are no NULs in it
		}
	}
	name, err := exec.LookPath(p.Args[0])
	if err != nil {
		return err
	}
	// The daemon may have died before we asked to die with it.
	if _, err := unix.Write(controlFD, []byte{Ready}); err != nil {
		return os.NewSyscallError("write to the daemon", err)
	}
	// The process has the standard streams only; the rest is closed as it starts.
	if err := unix.CloseRange(controlFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return os.NewSyscallError("close_range", err)
	}
	return &os.PathError{Op: "exec", Path: name, Err: syscall.Exec(name, p.Args, p.Env)}
}
