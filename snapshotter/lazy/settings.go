package lazy

import (
	"encoding/json"
	"path/filepath"
	"time"
)

// Settings are what the process that serves files is told, as JSON.
type Settings struct {
	// Registries are how registries are reached, in the form that the process
	// understands.
	Registries json.RawMessage `json:"registries,omitempty"`
	// Credentials are where those of this machine are looked for.
	DockerConfig bool   `json:"dockerConfig,omitempty"` // the usual file of the process's user
	Kubeconfig   string `json:"kubeconfig,omitempty"`   // path; secrets of its cluster
	CRI          CRI    `json:"cri"`
	// NoBackgroundFetch doesn't fetch what nobody has read yet.
	NoBackgroundFetch bool `json:"noBackgroundFetch,omitempty"`
	// PrefetchSize is how many bytes of a layer are fetched when it is mounted;
	// a layer that says by a landmark what it wants fetched goes before it.
	PrefetchSize int64 `json:"prefetchSize,omitempty"`
	// CacheSize bounds the bytes of fetched content on disk; 0 is no bound. A
	// layer that is being read may exceed it for some seconds.
	CacheSize int64 `json:"cacheSize,omitempty"`
	// MountTimeout is how long a registry may take to show a layer, and
	// FetchTimeout to answer a read; 0 are the defaults of 20 seconds and of a
	// minute.
	MountTimeout time.Duration `json:"mountTimeout,omitempty"`
	FetchTimeout time.Duration `json:"fetchTimeout,omitempty"`
}

// CRI is for kubelets that are pointed at a socket of this process: it passes
// requests on to containerd's and remembers the credentials in them.
type CRI struct {
	Socket string `json:"socket,omitempty"` // path to listen on; "" is not at all
	Image  string `json:"image,omitempty"`  // path of the socket of the image service behind it
}

// Deadline is MountTimeout or its default.
func (s Settings) Deadline() time.Duration {
	if s.MountTimeout > 0 {
		return s.MountTimeout
	}
	return 20 * time.Second
}

// LabelGrant is on snapshots that were asked for by somebody with credentials of
// his own. Its value is what [Authorize] knows him by; it is no secret, and is
// worth nothing once Authorize has forgotten it.
const LabelGrant = "containerd.io/snapshot/kiln.build/grant"

// Socket is what the process that serves files listens on.
func Socket(root string) string { return filepath.Join(root, "fuse.sock") }

// brokerSocket is where it asks for authorization.
func brokerSocket(root string) string { return filepath.Join(root, "auth.sock") }

// lockFile is held by the process, and holds its number.
func lockFile(root string) string { return filepath.Join(root, "fuse.lock") }
