package sandbox

import (
	"context"
	"io"
	"syscall"

	"github.com/kiln-build/kiln/builder/event/usage"
	"github.com/kiln-build/kiln/builder/idmap"
	"github.com/kiln-build/kiln/builder/sandbox/proxy"
)

// DefaultHostname is the host name of a process whose Spec has none.
const DefaultHostname = "buildkitsandbox"

// Spec is one process and the file tree it sees.
type Spec struct {
	// ID names the run, its bundle and its cgroup. It is unique among running
	// processes and made of a-z, 0-9 and '-', at most 128 of them.
	ID string
	// Root is the absolute path of a directory on the host that is the process'
	// root. The caller owns it: it is there before Run and after it, and meanwhile
	// is nobody else's.
	Root         string
	ReadonlyRoot bool
	// Mounts are made in this order, after the usual ones (/proc, /dev, /sys,
	// /etc/hosts, …). One that has the target of an earlier or a usual mount takes
	// its place.
	Mounts []Mount

	// Args is the command line, Env a list of NAME=VALUE. No PATH is added.
	Args, Env []string
	// Cwd is absolute; "" is "/". It is made, owned by the process' user, if it
	// is absent.
	Cwd string
	// User is "", "uid[:gid]" or "name[:group]", looked up in Root's /etc/passwd
	// and /etc/group.
	User string
	// Hostname defaults to DefaultHostname.
	Hostname string
	// ExtraHosts are added to /etc/hosts.
	ExtraHosts []Host
	// Ulimits replace limits that the process inherits from this one.
	Ulimits []Ulimit
	// CgroupParent replaces Config.CgroupParent.
	CgroupParent string
	Network      Network
	// Proxy, if not nil, stands between the processes and Network: it is all that they
	// reach, they are told where it is, and to trust it. With NetworkNone it does
	// nothing.
	Proxy     *proxy.Proxy `json:"-"`
	Security  Security
	Resources Resources
	// Users, if not nil, are those of the processes on the host: they run in a user
	// namespace. Root and the directories of Mounts show them the owners of files
	// accordingly; other sources (secrets, sockets) belong to a user of the host's.
	Users *idmap.Map `json:"-"`
	// UserNamespace is the file of a user namespace for the process, in which users
	// are those that Users says, or those outside; "" is a new one for Users, or that
	// of the runner.
	UserNamespace string
	// Shared says that Exec may be called.
	Shared bool
	// Devices are the full names of CDI devices that the process gets.
	Devices []string
	// Observe, if not nil, is called with what the processes use: now and then while
	// they run, and when all have ended, before Run returns. Where the process has no
	// cgroup of its own it may not be called.
	Observe func(usage.Sample) `json:"-"`
	// Terminal gives the process a terminal for its standard streams.
	Terminal bool
	// RemoveStubsRecursive also removes the parents that had to be made for mount
	// points, where they stayed empty.
	RemoveStubsRecursive bool
}

// Mount is a mount as OCI runtimes take it: type "bind" (of a directory, file or
// socket Source), "tmpfs" and others, with mount(8)'s options. Target is absolute
// and cannot be "/".
type Mount struct {
	Target, Source, Type string
	Options              []string
}

// Host is a line of /etc/hosts. IP is a textual IPv4 or IPv6 address.
type Host struct{ Name, IP string }

// Ulimit is a resource limit. Name is setrlimit's in any case and without its
// prefix ("nofile"); -1 means unlimited.
type Ulimit struct {
	Name       string
	Soft, Hard int64
}

// Network says which network a process has.
type Network int

const (
	// NetworkDefault is what the runner's NetworkProvider gives.
	NetworkDefault Network = iota
	// NetworkHost is the host's network.
	NetworkHost
	// NetworkNone has a loopback interface only.
	NetworkNone
)

// Security says how much a process is kept from the host.
type Security int

const (
	// Sandboxed has few capabilities, a seccomp filter and masked kernel files.
	Sandboxed Security = iota
	// Insecure has all capabilities of this process, all devices, no filter and
	// writable /sys and cgroups.
	Insecure
)

// Process is a further process in a running Spec. An empty Env or Cwd or User is
// the Spec's. Insecure is refused where the Spec is Sandboxed.
type Process struct {
	Args, Env []string
	Cwd       string
	User      string
	Security  Security
	Terminal  bool
}

// IO is what a process is connected to. Any of it may be nil.
type IO struct {
	// Stdin is read by a goroutine of its own. If it is an io.Closer it is closed
	// when the process has ended, so that a blocked Read can end.
	Stdin io.Reader
	// Stdout and Stderr are written to concurrently. With a terminal, everything
	// goes to Stdout. A write error stops the copying, not the process.
	Stdout, Stderr io.Writer
	// Resize sets the size of the terminal.
	Resize <-chan WinSize
	// Signal is sent to the process. Remember that the first process of a PID
	// namespace ignores signals it has no handler for, except SIGKILL.
	Signal <-chan syscall.Signal
}

// WinSize is the size of a terminal in characters.
type WinSize struct{ Rows, Cols uint32 }

// Runner runs processes. Its methods may be called concurrently.
type Runner interface {
	// Run runs s to its end and removes everything it needed for that. It calls
	// started, if not nil, once when the process runs; that must not block. It
	// returns nil for exit code 0; an *ExitError for another one; a *StartError if
	// the command could not be started; the cause of ctx's end, wrapped, if that
	// killed the process and all its children.
	Run(ctx context.Context, s Spec, io IO, started func()) error
	// Exec runs p in the running Spec id, waiting for that to have started, and
	// returns as Run does. If ctx ends, p and its process group are killed. It ends
	// with the Spec. An unknown id is errdefs.ErrNotFound.
	Exec(ctx context.Context, id string, p Process, io IO, started func()) error
}
