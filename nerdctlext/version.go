package nerdctlext

import "runtime/debug"

// modulePath is what version numbers are of.
const modulePath = "github.com/kiln-build/kiln"

// Version is which kiln a program is.
type Version struct{ Module, Version, Revision string }

// VersionOf completes what was given at link time, which may be empty, with what the
// compiler noted.
func VersionOf(linked string) Version {
	v := Version{Module: modulePath, Version: linked, Revision: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if v.Version == "" {
		v.Version = info.Main.Version
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			v.Revision = setting.Value
		}
	}
	return v
}
