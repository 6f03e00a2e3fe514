// Package snapshotter tests kiln's snapshotter as a plugin of a real containerd,
// and builds on it: what ctr does with it, images that share their layers with
// the cache, and many cycles of builds, runs, removals and restarts.
package snapshotter
