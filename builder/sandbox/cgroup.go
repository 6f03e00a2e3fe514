package sandbox

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const cgroupRoot = "/sys/fs/cgroup"

// oomFiles are the files, below cgroupRoot, that count the processes of a cgroup that
// were killed for lack of memory: cgroup v2's and v1's, each with "oom_kill N".
func oomFiles(cgroup string) []string {
	return []string{
		filepath.Join(cgroupRoot, cgroup, "memory.events"),
		filepath.Join(cgroupRoot, "memory", cgroup, "memory.oom_control"),
	}
}

// oomKilled tells whether a process of the cgroup was killed for lack of memory.
func oomKilled(cgroup string) bool {
	for _, file := range oomFiles(cgroup) {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			if n, err := strconv.Atoi(value); name == "oom_kill" && err == nil && n > 0 {
				return true
			}
		}
	}
	return false
}
