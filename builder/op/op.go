// Package op holds what the steps of a graph do: running a process
// ([NewExec]) and changing files ([NewFile]). Sources are in their own package.
package op
