package layer

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// noSpace makes an error that stems from a full disk say so, and carry
// syscall.ENOSPC even where it came from another process.
func noSpace(err error) error {
	if err == nil || !errors.Is(err, syscall.ENOSPC) && !strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
		return err
	}
	return fmt.Errorf("the disk is full (%w): free some space or prune the build cache: %w", syscall.ENOSPC, err)
}
