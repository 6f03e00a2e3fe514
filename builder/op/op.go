// Package op holds what the steps of a graph do: running a process
// ([NewExec]), changing files ([NewFile]), handing inputs on ([NewPassthrough]).
// Sources are in their own package.
package op
