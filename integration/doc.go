// Package integration holds the tests of kilnd and its clients as users meet
// them: real programs on real registries, containerds and disks, started by
// package testbed. It needs root and the programs of make build and make tools.
//
// Below it, package bench measures kilnd beside buildkitd, package conformance runs
// BuildKit's own suites against kilnd, and package vm runs tests in a virtual machine
// with cgroup v2.
package integration
