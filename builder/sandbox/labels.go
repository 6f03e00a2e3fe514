package sandbox

import (
	"fmt"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
)

// labels are a run's SELinux labels; both are "" where SELinux is not asked for.
type labels struct{ process, mount string }

// newLabels takes labels for a run with categories of its own, or for an unconfined one.
// The caller releases them.
func (l *Local) newLabels(s Security) (labels, error) {
	if !l.cfg.SELinux {
		return labels{}, nil
	}
	var options []string
	if s == Insecure {
		options = []string{"disable"}
	}
	process, mount, err := label.InitLabels(options)
	if err != nil {
		return labels{}, fmt.Errorf("SELinux labels: %w", err)
	}
	return labels{process: process, mount: mount}, nil
}

func (l labels) release() error {
	if l.process != "" {
		selinux.ReleaseLabel(l.process)
	}
	return nil
}
