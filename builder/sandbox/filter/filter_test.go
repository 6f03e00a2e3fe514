package filter

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/elastic/go-seccomp-bpf/arch"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

func defaultProfile() *specs.LinuxSeccomp {
	p := seccomp.DefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}})
	p.Architectures = []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchAARCH64, specs.ArchARM}
	return p
}

// machine runs a program as the kernel does.
func machine(t testing.TB, raw []bpf.RawInstruction) func(audit arch.AuditArch, number uint32, args [6]uint64) uint32 {
	t.Helper()
	program := make([]bpf.Instruction, len(raw))
	for i, r := range raw {
		program[i] = r.Disassemble()
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	return func(audit arch.AuditArch, number uint32, args [6]uint64) uint32 {
		data := make([]byte, 64)
		binary.BigEndian.PutUint32(data[offNumber:], number) // the machine loads big-endian words
		binary.BigEndian.PutUint32(data[offArch:], uint32(audit))
		for i, a := range args {
			binary.BigEndian.PutUint32(data[offArgs+8*i:], uint32(a))
			binary.BigEndian.PutUint32(data[offArgs+8*i+4:], uint32(a>>32))
		}
		got, err := vm.Run(data)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(got)
	}
}

// naive reads the answer off the profile.
func naive(p *specs.LinuxSeccomp, info *arch.Info, number uint32, args [6]uint64) uint32 {
	highest := uint32(0)
	answer := uint32(unix.SECCOMP_RET_ERRNO | unix.EPERM)
	for _, c := range p.Syscalls {
		for _, name := range c.Names {
			n, ok := info.SyscallNames[name]
			if !ok {
				continue
			}
			highest = max(highest, uint32(n))
			if uint32(n) == number && matches(c.Args, args) {
				answer, _ = verdict(c.Action, c.ErrnoRet)
			}
		}
	}
	if number > highest {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return answer
}

func matches(want []specs.LinuxSeccompArg, args [6]uint64) bool {
	for _, w := range want {
		a, ok := args[w.Index], false
		switch w.Op {
		case specs.OpEqualTo:
			ok = a == w.Value
		case specs.OpNotEqual:
			ok = a != w.Value
		case specs.OpLessThan:
			ok = a < w.Value
		case specs.OpMaskedEqual:
			ok = a&w.Value == w.ValueTwo
		}
		if !ok {
			return false
		}
	}
	return true
}

var interesting = []uint64{
	0, 1, 2, 8, 37, 38, 39, 40, 41, 43, 45, 46, 0x20000, 0x20008, 0xffffffff, 0x100000000, 0x100000026,
	0x7e020000, 0x10000000, 0x7e020000 << 32, 1 << 63, ^uint64(0), 0x01200011,
}

// TestDefaultProfile compares the answers to all calls with the profile.
func TestDefaultProfile(t *testing.T) {
	p := defaultProfile()
	raw, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d instructions", len(raw))
	run := machine(t, raw)
	for _, name := range p.Architectures {
		info := architectures[name]
		numbers := []uint32{x32Bit, x32Bit + 1, 0xffffffff, 10000}
		for n := range uint32(700) {
			numbers = append(numbers, n)
		}
		for _, n := range numbers {
			for _, a := range interesting {
				args := [6]uint64{a, a, a}
				if got, want := run(info.ID, n, args), naive(p, info, n, args); got != want {
					t.Fatalf("%s: call %d (%s) with %#x: %#x, want %#x", name, n, info.SyscallNumbers[int(n)], a, got, want)
				}
			}
		}
	}
	if got := run(0x1234, 1, [6]uint64{}); got != unix.SECCOMP_RET_KILL_THREAD {
		t.Errorf("unknown architecture: %#x", got)
	}
}

func TestComparisons(t *testing.T) {
	for _, op := range []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpMaskedEqual} {
		for _, v := range interesting {
			args := []specs.LinuxSeccompArg{{Index: 1, Value: v, ValueTwo: v & 0x7e020000, Op: op}}
			p := &specs.LinuxSeccomp{
				DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64},
				Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow, Args: args}},
			}
			raw, err := Compile(p)
			if err != nil {
				t.Fatal(err)
			}
			run := machine(t, raw)
			for _, a := range interesting {
				in := [6]uint64{7, a}
				if got, want := run(arch.X86_64.ID, 0, in), naive(p, arch.X86_64, 0, in); got != want {
					t.Errorf("%#x %s %#x: %#x, want %#x", a, op, v, got, want)
				}
			}
		}
	}
}

func TestUnsupported(t *testing.T) {
	read := func(s specs.LinuxSyscall) *specs.LinuxSeccomp {
		s.Names = []string{"read"}
		return &specs.LinuxSeccomp{
			DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64}, Syscalls: []specs.LinuxSyscall{s},
		}
	}
	flags := read(specs.LinuxSyscall{Action: specs.ActAllow})
	flags.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog}
	mips := read(specs.LinuxSyscall{Action: specs.ActAllow})
	mips.Architectures = []specs.Arch{specs.ArchMIPS}
	two := read(specs.LinuxSyscall{Action: specs.ActAllow})
	two.Syscalls = append(two.Syscalls, specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActKill})
	for name, p := range map[string]*specs.LinuxSeccomp{
		"flags": flags, "architecture": mips, "two actions": two,
		"notify":     read(specs.LinuxSyscall{Action: specs.ActNotify}),
		"comparison": read(specs.LinuxSyscall{Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: specs.OpGreaterThan}}}),
		"argument":   read(specs.LinuxSyscall{Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: specs.OpEqualTo, Index: 6}}}),
		"nothing":    {DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64}},
	} {
		if _, err := Compile(p); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
