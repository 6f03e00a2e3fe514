package config

import (
	"os"
	"os/exec"
	"path/filepath"

	"github.com/moby/sys/userns"
)

// Environment is what the daemon finds around it.
type Environment struct {
	// Lookup returns a variable and whether it is set.
	Lookup func(name string) (string, bool)
	// UserNamespace says that the process is root in a user namespace only.
	UserNamespace bool
	// HasProgram says whether a program can be run.
	HasProgram func(name string) bool
}

// ProcessEnvironment is the environment of this process.
func ProcessEnvironment() Environment {
	return Environment{
		Lookup:        os.LookupEnv,
		UserNamespace: userns.RunningInUserNS(),
		HasProgram: func(name string) bool {
			_, err := exec.LookPath(name)
			return err == nil
		},
	}
}

func (e Environment) get(name, fallback string) string {
	if v, ok := e.Lookup(name); ok && v != "" {
		return v
	}
	return fallback
}

// paths gives the folders of a program: the system's, or those of the user who
// runs it in a user namespace.
func (e Environment) paths(program string) paths {
	p := paths{
		data:   filepath.Join("/var/lib", program),
		run:    filepath.Join("/run", program),
		config: filepath.Join("/etc", program),
	}
	if !e.UserNamespace {
		return p
	}
	home := e.get("HOME", "/root")
	p.data = filepath.Join(e.get("XDG_DATA_HOME", filepath.Join(home, ".local/share")), program)
	p.config = filepath.Join(e.get("XDG_CONFIG_HOME", filepath.Join(home, ".config")), program)
	if dir := e.get("XDG_RUNTIME_DIR", ""); dir != "" {
		p.run = filepath.Join(dir, program)
	}
	return p
}
