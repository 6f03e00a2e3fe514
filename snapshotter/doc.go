// Package snapshotter is kiln's own snapshotter for containerd: overlayfs
// directories that may have several names.
//
// A directory holds what one layer changes on top of another directory; its id
// is a number and nothing of what users call a snapshot ever becomes a path. A
// name (of a committed snapshot, an active one or a view) leads to a directory.
// A directory lives as long as a name or a directory on top of it does, then it
// is removed in the background.
//
// There are two spaces of names. Those of containerd, which [Snapshotter] has,
// are what the snapshots API serves: they are as durable as those of
// containerd's overlayfs. Those of the engine, which [Snapshotter.Private] has,
// are seen by nobody else: containerd's collector, which removes whatever it
// didn't make, doesn't find them, and they aren't synced to disk, so that
// prepare and commit cost little. After a crash of the machine, which is
// recognised, they are gone. What isn't committed and has [LabelTransient] is on
// disk in neither space.
//
// # Aliases
//
// A layer that the engine made becomes a layer of an image without a copy: it
// gets the chain ID as another name, through the handshake that containerd has
// for remote snapshots. [Snapshotter.Offer] gives out a ticket for one
// directory; whoever calls containerd's Prepare with the ticket in the label
// [LabelAlias] and the chain ID in containerd's own label gets ErrAlreadyExists:
// the name is there now, and containerd's metadata know it. Tickets are made in
// this process only, since labels may come from the annotations of an image.
//
// # How the engine uses the private space
//
// [Private] is a [snapshots.Snapshotter]. What stands on a layer of containerd is
// made after [Snapshotter.Keep], which gives that layer and all below it private
// names: then the directories outlast the image. Nothing removes private names but
// Remove, as builder/store/private does. To publish: Offer("", name, chainID).
//
// # Usage
//
// The bytes of a directory with several names count once in each space: for its
// oldest name there. The others have none; an alias says in the label
// [LabelShares] with whom it shares. When the name that counted is removed, the
// next one counts. Names that Keep has given count nothing.
//
// # Lazy layers
//
// A directory may be shown by a [Lazy] filesystem instead of being filled. It
// is checked whenever something is about to be mounted on top of it, and shown
// anew where its server has gone. That and the first mount have deadlines: a
// registry that doesn't answer fails what needs it and nothing else.
package snapshotter
