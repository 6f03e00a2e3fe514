package emulation

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/kiln-build/kiln/builder/idmap"
	"golang.org/x/sys/unix"
)

// childName is what this program is called where it only holds a user namespace.
const childName = "kiln-emulation"

func init() {
	if os.Args[0] != childName {
		return
	}
	if err := hold(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// hold makes the binfmt_misc of the namespace that it was started in, with the
// registrations that it reads, a line each up to an empty one, and waits for the end
// of its input.
func hold() error {
	in := bufio.NewReader(os.Stdin)
	var lines []string
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		if line = strings.TrimSuffix(line, "\n"); line == "" {
			break
		}
		lines = append(lines, line)
	}
	if err := register(lines); err != nil {
		return err
	}
	fmt.Println("ok")
	_, err := io.Copy(io.Discard, in)
	return err
}

// register makes the binfmt_misc of this process' user namespace.
func register(lines []string) error {
	if err := unix.Mount("binfmt_misc", binfmtDir, "binfmt_misc", 0, ""); err != nil {
		return fmt.Errorf("mount binfmt_misc: %w; kernels before 6.7 have none for a user namespace", err)
	}
	for _, line := range lines {
		err := os.WriteFile(filepath.Join(binfmtDir, "register"), []byte(line), 0)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("register %s: %w", line, err)
		}
	}
	return nil
}

// namespace is a user namespace with a binfmt_misc of its own.
type namespace struct {
	cmd *exec.Cmd
	in  io.Closer
}

// allIDs are all users, or groups.
var allIDs = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1<<32 - 1}}

// newNamespace makes one in which users and groups are those that users says, or all
// those outside.
func newNamespace(registrations []string, users *idmap.Map) (*namespace, error) {
	uids, gids := allIDs, allIDs
	if users != nil {
		uids, gids = users.UIDs(), users.GIDs()
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args, cmd.Env, cmd.Stderr = []string{childName}, []string{}, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid: true, Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: uids, GidMappings: gids, GidMappingsEnableSetgroups: true, Credential: &syscall.Credential{},
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("make a user namespace for emulators: %w", err)
	}
	n := &namespace{cmd: cmd, in: in}
	if _, err = io.WriteString(in, strings.Join(registrations, "\n")+"\n\n"); err == nil {
		var answer []byte
		answer, err = bufio.NewReader(out).ReadBytes('\n')
		if text := strings.TrimSpace(string(answer)); text != "ok" {
			err = errors.Join(errors.New(text), ignoreEOF(err))
		}
	}
	if err != nil {
		n.close()
		return nil, fmt.Errorf("register emulators in a user namespace: %w", err)
	}
	return n, nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (n *namespace) path() string { return fmt.Sprintf("/proc/%d/ns/user", n.cmd.Process.Pid) }

// close lets the namespace end with the last process in it.
func (n *namespace) close() {
	n.in.Close()
	n.cmd.Wait() //nolint:errcheck // nothing depends on it
}
