// Package chaos tests what is left on disk: what a daemon says of it, the
// limits it keeps, and what it makes of its root after it was killed, after the
// machine went down, and after files were lost.
package chaos
