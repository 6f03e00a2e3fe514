package inside

// Order says what the program becomes.
type Order struct {
	// Sandbox is what to make; nil is to join the sandbox of the process whose
	// pidfd is file descriptor 4.
	Sandbox *Sandbox
	Process Process
}

// Sandbox is a file tree and what belongs to it.
type Sandbox struct {
	ID           string
	Hostname     string
	Root         string // a directory of the host
	RootReadonly bool
	// Remapped: the program begins in a user namespace, with all its capabilities but
	// as a user who has no number there and may enter what only the host's root may.
	// It becomes the namespace's root when it needs no more of the host's.
	Remapped bool
	// Network is the file of a network namespace to enter; "" is to stay.
	Network string
	// Loopback: the network namespace is new, and needs its interface up.
	Loopback bool
	// CgroupNamespace: the process sees its own cgroup as the root.
	CgroupNamespace bool
	// Mounts are made in this order.
	Mounts  []Mount
	Devices []Device
	// Links are symbolic links to make: their paths, then what they lead to.
	Links [][2]string
	// Masked are paths whose content is hidden, Readonly those that can't be
	// written to. Absent ones don't matter.
	Masked, Readonly []string
}

// Mount is one mount.
type Mount struct {
	Target string // in the sandbox
	Type   string // "bind", or a filesystem's name
	Source string // bind: a path of the host
	// Recursive: bind also what is mounted below Source.
	Recursive bool
	// Set and Clear are MOUNT_ATTR_* bits.
	Set, Clear uint64
	// Propagation is one of MS_PRIVATE, MS_SLAVE, MS_SHARED and MS_UNBINDABLE, or
	// 0 to leave it. With MS_REC it goes down.
	Propagation uint64
	// Data are options of the filesystem, NAME or NAME=VALUE.
	Data []string
}

// Device is a device node.
type Device struct {
	Path     string
	Mode     uint32 // with S_IFCHR, S_IFBLK or S_IFIFO
	Dev      uint64
	UID, GID int
}

// Process is what is executed.
type Process struct {
	Args, Env []string
	Cwd       string
	UID, GID  int
	Groups    []int
	Rlimits   []Rlimit
	Caps      Caps
	// NoNewPrivileges keeps the process from gaining rights by executing.
	NoNewPrivileges bool
	// AppArmor is the name of a profile, "" for none.
	AppArmor string
	// Seccomp is a filter as seccomp(2) takes it, nil for none.
	Seccomp []Instruction
	// Terminal gives the process a terminal, whose other end is sent to the daemon.
	Terminal bool
	OOMScore *int
	// DieWithParent: the process is killed when the thread ends that started it.
	DieWithParent bool
}

// Rlimit is a resource limit.
type Rlimit struct {
	Resource   int
	Soft, Hard uint64
}

// Caps are sets of capabilities, a bit for each. Those above Last don't exist.
type Caps struct {
	Bounding, Effective, Permitted, Inheritable, Ambient uint64
	Last                                                 int
}

// Instruction is a struct sock_filter: code, jt, jf, k.
type Instruction [4]uint32

// What the program writes, before it closes the descriptor.
const (
	// Terminal comes with the descriptor of the daemon's end of a terminal.
	Terminal = 'T'
	// Ready says that all is done but to execute the process.
	Ready = 'R'
)

// Failure is what the program writes, as JSON, if it can't execute the process.
type Failure struct{ Reason string }
