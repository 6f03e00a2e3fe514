package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// mark is a file that holds the boot id of the machine's run in which a table
// was opened, until it is closed. It tells a crash of the machine, after which
// the table can't be trusted.
type mark string

// set drops the table if the machine crashed while it was open, and marks it as
// open.
func (m mark) set(table string) error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("boot id: %w", err)
	}
	last, err := os.ReadFile(string(m))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && string(last) != string(boot) {
		if err := os.Remove(table); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.WriteFile(string(m), boot, 0o600)
}

func (m mark) clear() error { return os.Remove(string(m)) }
