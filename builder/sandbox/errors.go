package sandbox

import (
	"errors"
	"fmt"
)

// ErrOutOfMemory is the Err of an ExitError whose process, or a child of it, was
// killed because it reached its memory limit.
var ErrOutOfMemory = errors.New("out of memory")

// ExitError says that a process ran and ended with another code than 0.
type ExitError struct {
	// Code is the exit code, or 128 plus the number of the signal that ended the
	// process.
	Code int
	// Err is why, where that is known.
	Err error
}

func (e *ExitError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("exit code: %d: %v", e.Code, e.Err)
	}
	return fmt.Sprintf("exit code: %d", e.Code)
}

func (e *ExitError) Unwrap() error { return e.Err }

// StartError says that the engine could not start a process: there is no such
// command, or the file tree or the host do not allow what the Spec asks for.
type StartError struct {
	// Command is the first of the process' Args.
	Command string
	// Reason is the engine's.
	Reason string
}

func (e *StartError) Error() string {
	return fmt.Sprintf("start %q: %s", e.Command, e.Reason)
}
