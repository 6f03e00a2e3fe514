// Package fake has tests like those of BuildKit's suites: subtests by name,
// worker and matrix, most of them parallel.
package fake

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

var tests = map[string]func(t *testing.T){
	"TestPasses":  func(t *testing.T) {},
	"TestFails":   func(t *testing.T) { t.Error("no") },
	"TestSkipped": func(t *testing.T) { t.Skip("not here") },
	"TestParts":   func(t *testing.T) { t.Run("part", func(t *testing.T) {}) },
	"TestHangs":   func(t *testing.T) { time.Sleep(time.Hour) },
	"TestCrashes": func(t *testing.T) { go func() { panic("crash") }(); time.Sleep(time.Hour) },
	"TestSecond":  second,
	"TestLeaves":  leaves,
}

// second fails when it is run for the first time.
func second(t *testing.T) {
	mark := filepath.Join(os.Getenv("MARKS"), "second")
	if _, err := os.Stat(mark); err != nil {
		os.WriteFile(mark, nil, 0o644)
		t.Error("first time")
	}
}

// leaves leaves a process that heeds no polite signal and holds the output, and
// a mount in the temporary folder.
func leaves(t *testing.T) {
	cmd := exec.Command("sh", "-c", "trap '' TERM; (while :; do sleep 1; done) & exit 0")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
	dir := filepath.Join(os.TempDir(), "mount")
	os.Mkdir(dir, 0o755)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Error(err)
	}
}

func TestIntegration(t *testing.T) {
	for name, test := range tests {
		for _, matrix := range []string{"/worker=oci/v=1", "/worker=oci/v=2", "/worker=other"} {
			t.Run(name+matrix, func(t *testing.T) {
				t.Parallel()
				if os.Getenv("PATH") == "/nonexistent" {
					t.Fatal("no daemon")
				}
				test(t)
			})
		}
	}
}

func TestUnit(t *testing.T) { t.Error("not an integration test") }
