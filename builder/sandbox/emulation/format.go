package emulation

import (
	"fmt"
	"strings"
)

// format is a kind of programs, by what their ELF headers say.
type format struct {
	name     string // QEMU's for the architecture
	platform string
	bits     byte // 1: 32, 2: 64
	order    byte // 1: little end first, 2: big
	machine  uint16
}

// formats are what is emulated, where there is an emulator.
var formats = []format{
	{"aarch64", "linux/arm64", 2, 1, 0xb7},
	{"arm", "linux/arm/v7", 1, 1, 0x28},
	{"i386", "linux/386", 1, 1, 0x03},
	{"loongarch64", "linux/loong64", 2, 1, 0x102},
	{"mips64", "linux/mips64", 2, 2, 0x08},
	{"mips64el", "linux/mips64le", 2, 1, 0x08},
	{"ppc64le", "linux/ppc64le", 2, 1, 0x15},
	{"riscv64", "linux/riscv64", 2, 1, 0xf3},
	{"s390x", "linux/s390x", 2, 2, 0x16},
	{"x86_64", "linux/amd64", 2, 1, 0x3e},
}

// programs are the names that distributions give the emulator, one that needs no
// libraries first: it has to run in any root.
func (f format) programs() []string { return []string{"qemu-" + f.name + "-static", "qemu-" + f.name} }

// registration is the line by which binfmt_misc learns that a program runs those of
// the format; see the kernel's admin-guide/binfmt-misc. The kernel opens the program
// at once (F), and gives programs with a set-user-ID bit their rights (C).
func (f format) registration(program string) (string, error) {
	if strings.ContainsAny(program, ":\n\x00") {
		return "", fmt.Errorf("an emulator can't be registered by the name %q", program)
	}
	header := []byte{0x7f, 'E', 'L', 'F', f.bits, f.order, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, byte(f.machine), byte(f.machine >> 8)}
	// Any ABI but its version, and position-independent programs (3) like others (2).
	mask := []byte{255, 255, 255, 255, 255, 255, 255, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0xfe, 255, 255, 255}
	if f.order == 2 {
		for _, b := range [][]byte{header[16:18], header[18:20], mask[16:18]} {
			b[0], b[1] = b[1], b[0]
		}
	}
	return fmt.Sprintf(":qemu-%s:M::%s:%s:%s:OCF", f.name, escaped(header), escaped(mask), program), nil
}

func escaped(data []byte) string {
	var s strings.Builder
	for _, b := range data {
		fmt.Fprintf(&s, `\x%02x`, b)
	}
	return s.String()
}
