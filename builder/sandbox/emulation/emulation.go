// Package emulation finds out which platforms' programs this machine can run, and
// where it needs an emulator (QEMU's, for user mode) makes the kernel use it.
//
// Where the machine's binfmt_misc knows an emulator, programs of that platform just
// run. Where it does not, although the emulator is installed, there is a user
// namespace with a binfmt_misc of its own, and the processes of such steps run in
// that: nothing of the machine is changed. Kernels from 6.7 on can do that.
package emulation

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/platforms"
	"github.com/kiln-build/kiln/builder/idmap"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

const binfmtDir = "/proc/sys/fs/binfmt_misc"

// Config says how to look for emulators.
type Config struct {
	// MaxAge is how long what was found counts; negative is for ever.
	MaxAge time.Duration
	// Register is where emulators that are installed may be made known.
	Register Register
	// Find gives the path of a program; nil is exec.LookPath.
	Find func(name string) (string, error)
}

// Register is a place where the kernel can be told of emulators.
type Register int

const (
	// Nowhere is for a daemon that only uses what the machine knows.
	Nowhere Register = iota
	// InNewNamespace is a user namespace for the processes of steps. It takes the
	// rights of the machine's root.
	InNewNamespace
	// InOwnNamespace is the user namespace, not the machine's, that this process is
	// root of, if the machine knows no emulators at all: the namespace forgets them.
	InOwnNamespace
)

// Emulators are what this machine can run. It is safe for concurrent use; close it.
type Emulators struct {
	cfg    Config
	own    ocispec.Platform
	binfmt string

	mu      sync.Mutex
	looked  time.Time
	host    []ocispec.Platform // that the machine's binfmt_misc knows
	private []ocispec.Platform // that only our namespace knows
	lines   []string           // registrations of private
	ns      namespaces         // with lines; made when they are needed
	broken  error              // why there is none
	old     []*namespace       // steps may still begin in them
	mounted bool               // there is a binfmt_misc of our own user namespace
}

// New finds nothing yet.
func New(cfg Config) *Emulators {
	if cfg.Find == nil {
		cfg.Find = exec.LookPath
	}
	if !kernelHasPrivate() {
		cfg.Register = Nowhere
	}
	return &Emulators{cfg: cfg, own: platforms.Normalize(platforms.DefaultSpec()), binfmt: binfmtDir}
}

// kernelHasPrivate tells whether user namespaces can have a binfmt_misc of their own:
// from Linux 6.7 on.
func kernelHasPrivate() bool {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return false
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 6 || major == 6 && minor >= 7
}

// Platforms are all that this machine can run, its own first.
func (e *Emulators) Platforms() []ocispec.Platform {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.look()
	private := e.private
	if e.broken != nil {
		private = nil
	}
	return slices.Concat([]ocispec.Platform{e.own}, e.host, private)
}

// namespaces are those with a binfmt_misc, by whose users theirs are.
type namespaces map[*idmap.Map]*namespace

// Namespace gives the file of the user namespace that programs of a platform have to
// run in, whose users are those of users, or those of this process; "" needs none. That is also the answer for what can't be
// emulated: the programs may be others than their image says.
func (e *Emulators) Namespace(p ocispec.Platform, users *idmap.Map) string {
	if e == nil || e.native(p) {
		return ""
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.look()
	if contains(e.host, p) || !contains(e.private, p) {
		return ""
	}
	if e.cfg.Register == InOwnNamespace {
		e.registerHere()
		return ""
	}
	if ns := e.open(users); ns != nil {
		return ns.path()
	}
	return ""
}

// registerHere makes a binfmt_misc for the user namespace of this process. The next
// look finds in it what was registered.
func (e *Emulators) registerHere() {
	if e.broken != nil || e.mounted {
		return
	}
	if e.broken = register(e.lines); e.broken != nil {
		log.L.WithError(e.broken).Warn("emulators are installed and can't be used")
		return
	}
	e.mounted, e.looked = true, time.Time{}
}

// Advice says what to do where a program of the platform could not be run; "" if it is
// this machine's.
func (e *Emulators) Advice(p ocispec.Platform) string {
	if e == nil || e.native(p) {
		return ""
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	advice := fmt.Sprintf("this machine is %s and has no emulator for %s: install QEMU's for user mode (Debian, Ubuntu: qemu-user-static; Fedora: qemu-user-static-*; anywhere: docker run --privileged --rm tonistiigi/binfmt --install all), or build on a machine of that platform",
		platforms.Format(e.own), platforms.Format(p))
	if e.broken != nil && contains(e.private, p) {
		advice = fmt.Sprintf("an emulator for %s is installed but not registered in binfmt_misc: register it (Debian: apt install binfmt-support); the builder can't do it by itself: %v", platforms.Format(p), e.broken)
	}
	return advice
}

func (e *Emulators) native(p ocispec.Platform) bool {
	return p.OS == "" || p.Architecture == "" || platforms.Only(e.own).Match(p)
}

func contains(all []ocispec.Platform, p ocispec.Platform) bool {
	return slices.ContainsFunc(all, func(have ocispec.Platform) bool {
		return have.OS == p.OS && have.Architecture == p.Architecture
	})
}

// look finds out what there is, if it is not known or that was too long ago.
func (e *Emulators) look() {
	if !e.looked.IsZero() && (e.cfg.MaxAge < 0 || time.Since(e.looked) < e.cfg.MaxAge) {
		return
	}
	e.looked = time.Now()
	e.host, e.private = nil, nil
	var lines []string
	for _, f := range formats {
		p := platforms.Normalize(platforms.MustParse(f.platform))
		if p.Architecture == e.own.Architecture {
			continue
		}
		if opensAnywhere(filepath.Join(e.binfmt, "qemu-"+f.name)) {
			e.host = append(e.host, p)
			continue
		}
		if line := e.line(f); line != "" && e.cfg.Register != Nowhere && !e.native(p) {
			e.private = append(e.private, p)
			lines = append(lines, line)
		}
	}
	if e.cfg.Register == InOwnNamespace && len(e.host) > 0 {
		e.private, lines = nil, nil
	}
	if slices.Equal(lines, e.lines) {
		return
	}
	e.lines, e.broken = lines, nil
	e.retire()
}

// retire lets no step begin in the namespaces any more.
func (e *Emulators) retire() {
	e.old = slices.AppendSeq(e.old, maps.Values(e.ns))
	e.ns = nil
}

// line is the registration of a format, "" if no emulator is installed.
func (e *Emulators) line(f format) string {
	for _, name := range f.programs() {
		program, err := e.cfg.Find(name)
		if err != nil {
			continue
		}
		if line, err := f.registration(program); err == nil {
			return line
		}
	}
	return ""
}

// open makes the namespace, if it is not there; it is nil where there can be none.
func (e *Emulators) open(users *idmap.Map) *namespace {
	if e.ns[users] != nil || e.broken != nil {
		return e.ns[users]
	}
	n, err := newNamespace(e.lines, users)
	if err != nil {
		e.broken = err
		log.L.WithError(err).Warn("emulators are installed and can't be used")
		return nil
	}
	if e.ns == nil {
		e.ns = namespaces{}
	}
	e.ns[users] = n
	return n
}

// Close ends the namespaces. Steps have ended.
func (e *Emulators) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.retire()
	for _, n := range e.old {
		n.close()
	}
	if e.mounted {
		unix.Unmount(binfmtDir, unix.MNT_DETACH) //nolint:errcheck // the namespace ends soon
	}
	e.old, e.lines, e.looked, e.mounted = nil, nil, time.Time{}, false
}

// opensAnywhere tells whether an entry of binfmt_misc is enabled, and for a program
// that the kernel holds open, so that it is found in any root.
func opensAnywhere(file string) bool {
	entry, err := os.ReadFile(file)
	if err != nil || !strings.HasPrefix(string(entry), "enabled") {
		return false
	}
	for line := range strings.Lines(string(entry)) {
		if flags, ok := strings.CutPrefix(line, "flags:"); ok {
			return strings.Contains(flags, "F")
		}
	}
	return false
}
