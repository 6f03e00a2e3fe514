// Package snapshotter is kiln's own snapshotter for containerd: overlayfs
// directories that may have several names.
package snapshotter
