package sandboxtest

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/kiln-build/kiln/builder/sandbox"
)

var identity = map[string]test{
	"users":         testUsers,
	"bad users":     testBadUsers,
	"hostile users": testHostileUserFiles,
	"hostname":      testHostname,
	"hosts":         testHosts,
	"environment":   testEnvironment,
	"bad specs":     testBadSpecs,
}

const (
	passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:100::/home/ann:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n"
	group  = "root:x:0:\nusers:x:100:\nwheel:x:10:ann,root\ntape:x:26:bob,ann\n"
)

func testUsers(t *testing.T, r sandbox.Runner) {
	for user, want := range map[string]string{
		"":           "0:0:0 10",
		"root":       "0:0:0 10",
		"ann":        "1000:100:100 10 26",
		"1000":       "1000:100:100 10 26",
		"ann:tape":   "1000:26:26",
		"bob":        "1001:1001:1001 26",
		"ann:5":      "1000:5:5",
		"12345":      "12345:0:0",
		"12345:678":  "12345:678:678",
		"4294967294": "",
	} {
		s := newSpec(t, "echo $(id -u):$(id -g):$(id -G)")
		write(t, s.Root+"/etc/passwd", passwd)
		write(t, s.Root+"/etc/group", group)
		s.User = user
		got, err := output(t, r, s)
		if got = strings.TrimSpace(got); want != "" && (err != nil || got != want) {
			t.Errorf("user %q: %q, want %q, error %v", user, got, want, err)
		}
	}
}

func testBadUsers(t *testing.T, r sandbox.Runner) {
	for _, user := range []string{
		"nobody", "ann:nogroup", "4294967296", "4294967296:0", "0:4294967296", "4294967295:4294967295", "18446744073709551616", "-1", "-1:-1",
	} {
		s := newSpec(t, "touch /ran")
		write(t, s.Root+"/etc/passwd", passwd)
		s.User = user
		if out, err := output(t, r, s); err == nil {
			t.Errorf("user %q accepted: %s", user, out)
		}
		if _, err := os.Stat(s.Root + "/ran"); err == nil {
			t.Errorf("user %q: the process ran", user)
		}
	}
}

func testHostileUserFiles(t *testing.T, r sandbox.Runner) {
	for name, make := range map[string]func(file string) error{
		"fifo":      func(file string) error { return syscall.Mkfifo(file, 0o644) },
		"directory": func(file string) error { return os.Mkdir(file, 0o755) },
		"huge":      func(file string) error { return os.WriteFile(file, nil, 0o644) },
	} {
		s := newSpec(t, "true")
		file := write(t, s.Root+"/etc/passwd", "")
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if err := make(file); err != nil {
			t.Fatal(err)
		}
		if name == "huge" { // sparse
			if err := os.Truncate(file, 8<<30); err != nil {
				t.Fatal(err)
			}
		}
		s.User = "ann"
		if _, err := output(t, r, s); err == nil || strings.Contains(err.Error(), s.Root) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	s := newSpec(t, "true")
	host := write(t, t.TempDir()+"/passwd", "ann:x:1:1::/:/bin/sh\n")
	write(t, s.Root+"/etc/x", "")
	if err := os.Symlink(host, s.Root+"/etc/passwd"); err != nil {
		t.Fatal(err)
	}
	s.User = "ann"
	if _, err := output(t, r, s); err == nil {
		t.Error("a file of the host was read through a link")
	}
}

func testHostname(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "hostname; grep -c buildkitsandbox /etc/hosts")
	if got := mustOutput(t, r, s); got != sandbox.DefaultHostname+"\n1" {
		t.Errorf("output %q", got)
	}
	s = newSpec(t, "hostname; grep -c -w me /etc/hosts")
	s.Hostname = "me"
	if got := mustOutput(t, r, s); got != "me\n1" {
		t.Errorf("output %q", got)
	}
}

func testHosts(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "cat /etc/hosts; echo x >> /etc/hosts || echo refused; cat /etc/resolv.conf >/dev/null")
	s.User = "1000:1000"
	s.ExtraHosts = []sandbox.Host{{Name: "db", IP: "10.1.2.3"}, {Name: "six", IP: "fe80::1"}}
	got := mustOutput(t, r, s)
	for _, want := range []string{"127.0.0.1\tlocalhost buildkitsandbox\n", "10.1.2.3\tdb\n", "fe80::1\tsix\n", "refused"} {
		if !strings.Contains(got, want) {
			t.Errorf("output %q lacks %q", got, want)
		}
	}
}

func testEnvironment(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "")
	s.Args = []string{"/bin/env"}
	s.Env = []string{"A=1", "B=two words", "HOME=/h"}
	if got := mustOutput(t, r, s); got != "A=1\nB=two words\nHOME=/h" {
		t.Errorf("output %q", got)
	}
}

func testBadSpecs(t *testing.T, r sandbox.Runner) {
	for name, change := range map[string]func(*sandbox.Spec){
		"id":            func(s *sandbox.Spec) { s.ID = "../x" },
		"no id":         func(s *sandbox.Spec) { s.ID = "" },
		"option id":     func(s *sandbox.Spec) { s.ID = "--help" },
		"root":          func(s *sandbox.Spec) { s.Root = "relative" },
		"absent root":   func(s *sandbox.Spec) { s.Root += "/absent" },
		"no command":    func(s *sandbox.Spec) { s.Args = nil },
		"NUL":           func(s *sandbox.Spec) { s.Env = []string{"A=\x00"} },
		"hostname":      func(s *sandbox.Spec) { s.Hostname = strings.Repeat("x", 65) },
		"host":          func(s *sandbox.Spec) { s.ExtraHosts = []sandbox.Host{{Name: "a\n1.1.1.1 b", IP: "1.2.3.4"}} },
		"address":       func(s *sandbox.Spec) { s.ExtraHosts = []sandbox.Host{{Name: "a", IP: "1.2.3"}} },
		"target":        func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Type: "tmpfs", Target: "x"}} },
		"root target":   func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Type: "tmpfs", Target: "/x/.."}} },
		"absent source": func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{bind("/no/such/source", "/x")} },
		"network":       func(s *sandbox.Spec) { s.Network = 17 },
		"security":      func(s *sandbox.Spec) { s.Security = -1 },
		"ulimit":        func(s *sandbox.Spec) { s.Ulimits = []sandbox.Ulimit{{Name: "nothing"}} },
		"cgroup parent": func(s *sandbox.Spec) { s.CgroupParent = "a/../../b" },
	} {
		s := newSpec(t, "touch /ran")
		root := s.Root
		before := listing(t, root)
		change(&s)
		if _, err := output(t, r, s); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if left := added(t, root, before); len(left) != 0 {
			t.Errorf("%s: left in root: %q", name, left)
		}
	}
}
