// Package sandbox runs one process on a file tree and some mounts, apart from
// the rest of the machine, and leaves nothing of it behind.
//
// A [Spec] says what the process is and what it sees; a [Runner] runs it to its
// end. [Local] is the runner for processes on this machine. It looks up what the Spec
// means in the file tree and writes an OCI specification, which an engine carries
// out: the program kiln-init (package inside); an OCI runtime's binary (runc, crun),
// which is started in the foreground; or containerd, with any of its shims.
//
//	Spec ─ check ─ user, hosts, resolv.conf, mount points ─ specification ─ engine
//
// What a run makes on the host lies below Config.StateDir, which belongs on a
// tmpfs (a run writes a dozen small files, some of them with O_SYNC):
//
//	StateDir/runs/ID/      config.json, hosts, resolv.conf; a runtime's pid, log.json
//	StateDir/runtime/ID/   a runtime's own state
//
// and in the cgroup PARENT/kiln/ID. A run removes all three when it ends,
// whichever way it ends; [Local.Reconcile] removes those of a daemon that was killed.
//
// The file tree is hostile: paths in it are resolved as a process with that root
// would resolve them and are only touched through handles that cannot leave it.
package sandbox
