// Package filter compiles a seccomp profile of the OCI runtime specification to the
// program that the kernel runs at each system call.
//
// A runtime does that with libseccomp at each start of a process, and it takes longer
// than all the rest; a daemon can do it once. What the program answers is what runc's
// answers: what the profile says, and ENOSYS for calls with higher numbers than any
// that the profile knows, so that programs fall back on older ones.
package filter

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/elastic/go-seccomp-bpf/arch"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// ErrUnsupported says that a profile needs something that Compile doesn't know.
var ErrUnsupported = errors.New("seccomp profile is not supported")

// architectures are those whose system calls are known. All have the lower half of
// an argument first.
var architectures = map[specs.Arch]*arch.Info{
	specs.ArchX86_64:  arch.X86_64,
	specs.ArchX86:     arch.I386,
	specs.ArchAARCH64: arch.AARCH64,
	specs.ArchARM:     arch.ARM,
}

// Offsets into struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// x32Bit is set in the numbers of the calls of x86_64's third ABI.
const x32Bit = 0x40000000

// Compile makes a program of a profile.
func Compile(p *specs.LinuxSeccomp) ([]bpf.RawInstruction, error) {
	if len(p.Flags) > 0 || p.ListenerPath != "" || len(p.Architectures) == 0 {
		return nil, fmt.Errorf("%w: flags, listener or no architecture", ErrUnsupported)
	}
	fallback, err := verdict(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: offArch, Size: 4}}
	for _, name := range p.Architectures {
		info := architectures[name]
		if info == nil {
			return nil, fmt.Errorf("%w: architecture %s", ErrUnsupported, name)
		}
		body, err := calls(p, info, fallback)
		if err != nil {
			return nil, err
		}
		program = append(program,
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(info.ID), SkipTrue: 1},
			bpf.Jump{Skip: uint32(len(body))})
		program = append(program, body...)
	}
	program = append(program, bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_THREAD})
	raw, err := bpf.Assemble(program)
	if err == nil && len(raw) > unix.BPF_MAXINSNS {
		err = fmt.Errorf("%w: it has %d instructions", ErrUnsupported, len(raw))
	}
	return raw, err
}

// verdict is what the kernel is told about a call.
func verdict(action specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	code := uint32(unix.EPERM)
	if errno != nil {
		code = uint32(*errno) & unix.SECCOMP_RET_DATA
	}
	switch action {
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | code, nil
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	}
	return 0, fmt.Errorf("%w: action %s", ErrUnsupported, action)
}

// rule is what a profile says about one call.
type rule struct {
	args    []specs.LinuxSeccompArg // all must match
	verdict uint32
}

// calls is the part of the program for one architecture.
func calls(p *specs.LinuxSeccomp, info *arch.Info, fallback uint32) ([]bpf.Instruction, error) {
	rules, err := rulesOf(p, info, fallback)
	if err != nil {
		return nil, err
	}
	if len(rules) == 0 {
		return nil, fmt.Errorf("%w: no calls of %s", ErrUnsupported, info.Name)
	}
	numbers := slices.Sorted(maps.Keys(rules))
	// Each interval of numbers has one answer.
	var all []interval
	next := uint32(0)
	for _, n := range numbers {
		if n > next {
			all = append(all, interval{first: next, code: answer(fallback)})
		}
		code, err := conditions(rules[n], fallback)
		if err != nil {
			return nil, err
		}
		all = append(all, interval{first: n, code: code})
		next = n + 1
	}
	unknown := answer(fallback)
	if fallback&unix.SECCOMP_RET_ACTION == unix.SECCOMP_RET_ERRNO {
		unknown = answer(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))
	}
	all = append(all, interval{first: next, code: unknown})
	code := []bpf.Instruction{bpf.LoadAbsolute{Off: offNumber, Size: 4}}
	return append(code, search(merge(all))...), nil
}

func rulesOf(p *specs.LinuxSeccomp, info *arch.Info, fallback uint32) (map[uint32][]rule, error) {
	rules := map[uint32][]rule{}
	for _, c := range p.Syscalls {
		v, err := verdict(c.Action, c.ErrnoRet)
		if err != nil {
			return nil, err
		}
		if v == fallback {
			continue
		}
		for _, name := range c.Names {
			n, ok := info.SyscallNames[name]
			if !ok || n < 0 || n >= x32Bit {
				continue // the architecture doesn't have it
			}
			rules[uint32(n)] = append(rules[uint32(n)], rule{args: c.Args, verdict: v})
		}
	}
	for n, of := range rules {
		i := slices.IndexFunc(of, func(r rule) bool { return len(r.args) == 0 })
		for _, r := range of {
			if r.verdict != of[0].verdict {
				return nil, fmt.Errorf("%w: it has several actions for %s", ErrUnsupported, info.SyscallNumbers[int(n)])
			}
		}
		if i >= 0 {
			rules[n] = of[i : i+1]
		}
	}
	return rules, nil
}

func answer(verdict uint32) []bpf.Instruction {
	return []bpf.Instruction{bpf.RetConstant{Val: verdict}}
}
