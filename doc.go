// Package kiln is the root of the kiln build engine; it holds no code, only the tests that guard the structure.
package kiln
