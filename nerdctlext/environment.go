// Package nerdctlext is the client's side of kiln: what stands between a
// command line and the wire.
//
// The parts are packages of their own, each of which imports only those before it:
// dial (addresses to connections), build (one build: session, solve, status),
// value (the little languages inside flag values), progress (drawing), report
// (tables of what a daemon holds), perform (what is done around all of them), and the
// two command trees that stand on them, buildctl and command. daemontest is a daemon
// for their tests.
//
// This package itself holds only what the process was started with, so that nothing
// below cmd reads the environment.
package nerdctlext

import (
	"io"

	"github.com/containerd/console"
)

// Environment is what a command gets from the process that it runs in. Tests make
// their own.
type Environment struct {
	// Lookup finds a variable of the environment.
	Lookup func(name string) (value string, found bool)
	// Stdin, Stdout and Stderr are the process's streams; they are terminals when they
	// implement console.File and say so.
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Version is that of the program.
	Version Version
	// User is the effective user id, -1 where there is none.
	User int
}

// Get returns the variable's value, "" when it is unset.
func (e Environment) Get(name string) string {
	value, _ := e.Lookup(name)
	return value
}

// IsTerminal tells whether stream, one of an Environment's three, is a terminal.
func IsTerminal(stream any) bool {
	file, ok := stream.(console.File)
	if !ok {
		return false
	}
	_, err := console.ConsoleFromFile(file)
	return err == nil
}
