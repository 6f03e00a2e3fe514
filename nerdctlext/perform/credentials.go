package perform

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/moby/buildkit/session/auth/authprovider"

	"github.com/kiln-build/kiln/nerdctlext"
)

// Credentials finds registry accounts in docker's configuration: that of $DOCKER_CONFIG,
// or the user's. What is wrong with it is a warning, since most builds need none.
func Credentials(env nerdctlext.Environment) authprovider.AuthConfigProvider {
	dir := env.Get("DOCKER_CONFIG")
	if dir == "" {
		dir = filepath.Join(env.Get("HOME"), ".docker")
	}
	file, err := config.Load(dir)
	if err != nil {
		Warn(env.Stderr, fmt.Sprintf("registry accounts: %v", err))
	}
	if file == nil {
		file = configfile.New(filepath.Join(dir, config.ConfigFileName))
	}
	return authprovider.LoadAuthConfig(file)
}

// CredentialsFile finds registry accounts in one file of the form of docker's and
// podman's.
func CredentialsFile(path string) (authprovider.AuthConfigProvider, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("authfile: %w", err)
	}
	defer file.Close()
	loaded, err := config.LoadFromReader(file)
	if err != nil {
		return nil, fmt.Errorf("authfile %s: %w", path, err)
	}
	return authprovider.LoadAuthConfig(loaded), nil
}
