package plugin

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestOneDaemonPerRoot(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for range 2 {
		first, err := takeLock(root)
		if err != nil {
			t.Fatal(err)
		}
		_, err = takeLock(root)
		if err == nil {
			t.Fatal("two daemons have the lock")
		}
		for _, want := range []string{root, fmt.Sprintf("process %d", os.Getpid()), "--root"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error %q does not contain %q", err, want)
			}
		}
		if err := first.release(); err != nil {
			t.Fatal(err)
		}
	}
}
