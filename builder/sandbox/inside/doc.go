// Package inside is the part of a sandbox that runs in it: a process of the daemon's
// choosing becomes, step by step, the process that a build asked for.
//
// The daemon starts the program (cmd/kiln-init) in new namespaces, or in the process
// namespace of a running sandbox, puts it into a cgroup, and writes an [Order] to
// file descriptor 3. The program makes the file tree, gives up what the process may
// not have, and executes it, which closes the descriptor. If something fails, it
// writes the reason there instead.
//
// Why not an OCI runtime's own init: see docs/design.md, "Starting a process".
//
// Everything that a path of the order, or a link in the tree, can lead to is looked
// up after pivot_root(2), so that the kernel keeps it inside; what is mounted from
// outside is opened before, and is not in reach by any path.
//
// The package is for a small program that starts quickly: it imports little.
package inside
