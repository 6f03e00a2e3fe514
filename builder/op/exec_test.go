package op

import (
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/sessiontest"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/moby/buildkit/solver/pb"
)

// printed keeps what processes print.
type printed struct {
	mu   sync.Mutex
	text strings.Builder
}

func (p *printed) Emit(e event.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l, ok := e.(*event.Log); ok {
		p.text.Write(l.Data)
	}
}

const (
	somePasswd = "root:x:0:0::/root:/bin/sh\\nann:x:1000:100::/home:/bin/sh\\n"
	someGroup  = "root:x:0:\\nusers:x:100:\\ntape:x:26:ann\\n"
)

// optionsBench has users in its root, secrets and two agents. input is a tree with a
// directory d of 7:8, in which f is a file and s a link to it.
func optionsBench(t *testing.T) (b *execBench, input *layer.Layer) {
	b = newExecBench(t)
	listener, err := net.Listen("unix", t.TempDir()+"/agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	agents, err := sshprovider.NewSSHAgentProvider([]sshprovider.AgentConfig{
		{ID: "default", Paths: []string{listener.Addr().String()}}, {ID: "other", Paths: []string{listener.Addr().String()}},
	})
	if err != nil {
		t.Fatal(err)
	}
	sessions := session.NewManager()
	client, _ := sessiontest.Open(t, sessions, "", agents, secretsprovider.FromMap(map[string][]byte{
		"token": []byte("hidden"), "tool": []byte("#!/bin/sh\necho ran\n"),
	}))
	b.cfg.Sessions, b.job.Sessions = sessions, func() []string { return []string{client.ID()} }
	results, err := b.exec(b.ctx, script("printf '"+somePasswd+"' > /etc/passwd; printf '"+someGroup+"' > /etc/group; "+
		"mkdir -m 750 /in/d; echo data > /in/d/f; ln -s f /in/d/s; busybox chown -R 7:8 /in/d",
		&pb.Mount{Dest: "/in", Input: -1, Output: 1}))
	if err != nil {
		t.Fatal(err)
	}
	b.root = results[0].(*layer.Layer)
	return b, results[1].(*layer.Layer)
}

// names are the paths of a tree, without those of mount points that a runner may leave.
func (b *execBench) names(l *layer.Layer) []string {
	b.t.Helper()
	dir, release, err := b.layers.Mount(b.ctx, l)
	if err != nil {
		b.t.Fatal(err)
	}
	defer release()
	var names []string
	for _, below := range []string{".", "etc", "run"} {
		entries, err := os.ReadDir(dir + "/" + below)
		if err != nil && !os.IsNotExist(err) {
			b.t.Fatal(err)
		}
		for _, e := range entries {
			if name := below + "/" + e.Name(); !slices.Contains([]string{"./proc", "./dev", "./sys"}, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// TestExecOptions runs a process with each thing that a definition can ask for. What
// was only mounted is not in its result.
func TestExecOptions(t *testing.T) {
	t.Parallel()
	b, input := optionsBench(t)
	untouched, rootNames := b.files(input), b.names(b.root)
	none := func(m *pb.Mount) *pb.Mount { m.Input, m.Output = -1, -1; return m }
	secret := func(dest string, o *pb.SecretOpt) *pb.Mount {
		return none(&pb.Mount{Dest: dest, MountType: pb.MountType_SECRET, SecretOpt: o})
	}
	agent := func(dest string, o *pb.SSHOpt) *pb.Mount {
		return none(&pb.Mount{Dest: dest, MountType: pb.MountType_SSH, SSHOpt: o})
	}
	tmpfs := func(dest string, size int64) *pb.Mount {
		return none(&pb.Mount{Dest: dest, MountType: pb.MountType_TMPFS, TmpfsOpt: &pb.TmpfsOpt{Size: size}})
	}
	for name, c := range map[string]struct {
		script string
		mounts []*pb.Mount
		exec   func(*pb.ExecOp)
		want   string
	}{
		"bind, read-only": {
			script: "cat /m/d/f; (echo x > /m/new) 2>/dev/null || echo refused",
			mounts: []*pb.Mount{{Dest: "/m", Input: 1, Output: -1, Readonly: true}},
			want:   "data\nrefused\n",
		},
		"bind, selected directory": {
			script: "cat /m/f",
			mounts: []*pb.Mount{{Dest: "/m", Input: 1, Output: -1, Readonly: true, Selector: "d"}},
			want:   "data\n",
		},
		"bind, selected file through a link": {
			script: "cat /m",
			mounts: []*pb.Mount{{Dest: "/m", Input: 1, Output: -1, Readonly: true, Selector: "/d/s"}},
			want:   "data\n",
		},
		"bind, writes are thrown away": {
			script: "echo more >> /m/f; cat /m/f",
			mounts: []*pb.Mount{{Dest: "/m", Input: 1, Output: -1, Selector: "d"}},
			want:   "data\nmore\n",
		},
		"bind of nothing": {
			script: "ls /m; echo x > /m/f && cat /m/f",
			mounts: []*pb.Mount{{Dest: "/m", Input: -1, Output: -1}},
			want:   "x\n",
		},
		"bind below another": {
			script: "cat /m/d/f /m/d/below/f",
			mounts: []*pb.Mount{
				{Dest: "/m/d/below", Input: 1, Output: -1, Readonly: true, Selector: "d"}, {Dest: "/m", Input: 1, Output: -1},
			},
			want: "data\ndata\n",
		},
		"cache from a selected directory": {
			script: "cat /m/f; stat -c '%u:%g %a' /m; echo kept > /m/f",
			mounts: []*pb.Mount{{Dest: "/m", Input: 1, Output: -1, Selector: "d", MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "from"}}},
			want:   "data\n7:8 750\n",
		},
		"cache, an id that looks like a path": {
			script: "ls -a /m",
			mounts: []*pb.Mount{none(&pb.Mount{Dest: "/m", MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "../../../../../../etc"}})},
			want:   ".\n..\n",
		},
		"cache, read-only": {
			script: "(echo x > /m/new) 2>/dev/null || echo refused",
			mounts: []*pb.Mount{none(&pb.Mount{Dest: "/m", Readonly: true, MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "ro"}})},
			want:   "refused\n",
		},
		"cache, the same twice": {
			script: "echo one > /m/f; cat /n/f",
			mounts: []*pb.Mount{
				none(&pb.Mount{Dest: "/m", MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "x", Sharing: pb.CacheSharingOpt_LOCKED}}),
				none(&pb.Mount{Dest: "/n", MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "x", Sharing: pb.CacheSharingOpt_LOCKED}}),
			},
			want: "one\n",
		},
		"cache, the same id from elsewhere": {
			script: "cat /m/f; ls /n",
			mounts: []*pb.Mount{
				{Dest: "/m", Input: 1, Output: -1, Selector: "d", MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "seeds"}},
				none(&pb.Mount{Dest: "/n", MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "seeds"}}),
			},
			want: "data\n",
		},
		"tmpfs": {
			script: "stat -c '%u:%g %a' /m; stat -f -c %T /m; echo x > /m/f",
			mounts: []*pb.Mount{tmpfs("/m", 0)},
			want:   "0:0 1777\ntmpfs\n",
		},
		"tmpfs, size": {
			script: "dd if=/dev/zero of=/m/f bs=1M count=3 2>&1 | grep -o 'No space left on device'; stat -c %s /m/f",
			mounts: []*pb.Mount{tmpfs("/m", 2<<20)},
			want:   "No space left on device\n2097152\n",
		},
		"size of /dev/shm": {
			script: "grep -c ' /dev/shm .*size=12288k' /proc/mounts; stat -c %a /dev/shm",
			mounts: []*pb.Mount{tmpfs("/dev/shm", 12<<20)},
			want:   "1\n1777\n",
		},
		"secret": {
			script: "cat /s; stat -c ' %u:%g %a' /s; for o in ro nosuid nodev noexec; do grep -c \" /s tmpfs [^ ]*$o\" /proc/mounts; done",
			mounts: []*pb.Mount{secret("/s", &pb.SecretOpt{ID: "token", Uid: 5, Gid: 6, Mode: 0o440})},
			want:   "hidden 5:6 440\n1\n1\n1\n1\n",
		},
		"secret that is a program": {
			script: "/s",
			mounts: []*pb.Mount{secret("/s", &pb.SecretOpt{ID: "tool", Mode: 0o500})},
			want:   "ran\n",
		},
		"secret that is not there": {
			script: "test -e /s || echo none",
			mounts: []*pb.Mount{secret("/s", &pb.SecretOpt{ID: "absent", Optional: true})},
			want:   "none\n",
		},
		"secrets in the environment": {
			script: "echo $TOKEN ${token} ${absent-none}",
			exec: func(e *pb.ExecOp) {
				e.Meta.Env = []string{"TOKEN=overridden"}
				e.Secretenv = []*pb.SecretEnv{{ID: "token", Name: "TOKEN"}, {ID: "token"}, {ID: "absent", Optional: true}}
			},
			want: "hidden hidden none\n",
		},
		"agents": {
			script: "stat -c '%F %u:%g %a' /a /b; test -e /c || echo none",
			mounts: []*pb.Mount{
				agent("/a", &pb.SSHOpt{Mode: 0o600}), agent("/b", &pb.SSHOpt{ID: "other", Uid: 5, Gid: 6, Mode: 0o660}),
				agent("/c", &pb.SSHOpt{ID: "absent", Optional: true}),
			},
			want: "socket 0:0 600\nsocket 5:6 660\nnone\n",
		},
		"root, read-only": {
			script: "(echo x > /x) 2>/dev/null || echo refused; echo y > /m/y && cat /m/y",
			mounts: []*pb.Mount{tmpfs("/m", 0)},
			exec:   func(e *pb.ExecOp) { e.Mounts[0].Readonly = true },
			want:   "refused\ny\n",
		},
		"working directory": {
			script: "pwd; cat rel/f",
			mounts: []*pb.Mount{{Dest: "rel", Input: 1, Output: -1, Readonly: true, Selector: "d"}, tmpfs("/w", 0)},
			exec:   func(e *pb.ExecOp) { e.Meta.Cwd = "/w/made" },
			want:   "/w/made\ndata\n",
		},
		"user by name": {
			script: "echo $(id -u):$(id -g):$(id -G)",
			exec:   func(e *pb.ExecOp) { e.Meta.User = "ann" },
			want:   "1000:100:100 26\n",
		},
		"user by number, group by name": {
			script: "echo $(id -u):$(id -g):$(id -G)",
			exec:   func(e *pb.ExecOp) { e.Meta.User = "1000:tape" },
			want:   "1000:26:26\n",
		},
		"user by number that is not in the image": {
			script: "echo $(id -u):$(id -g):$(id -G)",
			exec:   func(e *pb.ExecOp) { e.Meta.User = "4000" },
			want:   "4000:0:0\n",
		},
		"host name and hosts": {
			script: "hostname; grep -E 'box|other' /etc/hosts; test -s /etc/resolv.conf && echo names",
			exec: func(e *pb.ExecOp) {
				e.Meta.Hostname, e.Meta.ExtraHosts = "box", []*pb.HostIP{{Host: "other", IP: "192.0.2.7"}}
			},
			want: "box\n127.0.0.1\tlocalhost box\n192.0.2.7\tother\nnames\n",
		},
		"limits of the process": {
			script: "ulimit -Sn; ulimit -Hn",
			exec:   func(e *pb.ExecOp) { e.Meta.Ulimit = []*pb.Ulimit{{Name: "nofile", Soft: 50, Hard: 60}} },
			want:   "50\n60\n",
		},
		"group of processes": {
			script: "grep -c " + b.cfg.CgroupParent + "/below/ /proc/self/cgroup > /dev/null && echo there",
			exec:   func(e *pb.ExecOp) { e.Meta.CgroupParent = b.cfg.CgroupParent + "/below" },
			want:   "there\n",
		},
		"exit code that is valid": {
			script: "echo ended; exit 4",
			exec:   func(e *pb.ExecOp) { e.Meta.ValidExitCodes = []int32{3, 4} },
			want:   "ended\n",
		},
		"proxies": {
			script: "echo $HTTP_PROXY $http_proxy $no_proxy ${https_proxy-none}",
			exec:   func(e *pb.ExecOp) { e.Meta.ProxyEnv = &pb.ProxyEnv{HttpProxy: "h", NoProxy: "n"} },
			want:   "h h n none\n",
		},
		"no network": {
			script: "ls /sys/class/net",
			exec:   func(e *pb.ExecOp) { e.Network = pb.NetMode_NONE },
			want:   "lo\n",
		},
		"insecure": {
			script: "grep Seccomp: /proc/self/status",
			exec:   func(e *pb.ExecOp) { e.Security = pb.SecurityMode_INSECURE },
			want:   "Seccomp:\t0\n",
		},
		"parents of mount points": {
			script: "echo x > /p/q/r/f",
			mounts: []*pb.Mount{tmpfs("/p/q/r", 0)},
			exec:   func(e *pb.ExecOp) { e.Meta.RemoveMountStubsRecursive = true },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			step := script(c.script, c.mounts...)
			if c.exec != nil {
				c.exec(step.Op.GetExec())
			}
			var out printed
			job := schedule.Job{Sessions: b.job.Sessions, Progress: event.Progress{Sink: &out}}
			results, err := NewExec(b.cfg, step, ExecGrants{}).Run(b.ctx, job, []schedule.Result{b.root, input})
			if got := out.text.String(); err != nil || got != c.want {
				t.Fatalf("error %v, printed %q, want %q", err, got, c.want)
			}
			b := *b.fileBench
			b.t = t
			if got := (&execBench{fileBench: &b}).names(results[0].(*layer.Layer)); !slices.Equal(got, rootNames) {
				t.Errorf("the result has %q, the root had %q", got, rootNames)
			}
		})
	}
	t.Cleanup(func() {
		b.wantFiles(input, untouched)
		b.nothingMounted()
	})
}

// TestExecErrors asks for what can't be had: each error names the thing, the place and
// what to do.
func TestExecErrors(t *testing.T) {
	t.Parallel()
	b, input := optionsBench(t)
	for name, c := range map[string]struct {
		mount *pb.Mount
		exec  func(*pb.ExecOp)
		want  []string
	}{
		"secret":             {mount: &pb.Mount{Dest: "/s", MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "absent"}}, want: []string{"mount /s", "secret absent", "not found", "--secret id=absent"}},
		"secret variable":    {exec: func(e *pb.ExecOp) { e.Secretenv = []*pb.SecretEnv{{ID: "absent", Name: "TOKEN"}} }, want: []string{"variable TOKEN", "secret absent", "not found", "--secret id=absent"}},
		"agent":              {mount: &pb.Mount{Dest: "/a", MountType: pb.MountType_SSH, SSHOpt: &pb.SSHOpt{ID: "absent"}}, want: []string{"mount /a", `SSH key "absent"`, "--ssh absent"}},
		"selected directory": {mount: &pb.Mount{Dest: "/m", Input: 1, Selector: "../x"}, want: []string{"mount /m", `"/x"`, "not found"}},
		"cache's directory":  {mount: &pb.Mount{Dest: "/m", Input: -1, MountType: pb.MountType_CACHE, Selector: "x"}, want: []string{"mount /m", `"/x"`, "not found"}},
		"user":               {exec: func(e *pb.ExecOp) { e.Meta.User = "bob" }, want: []string{`user "bob"`, "/etc/passwd", "number"}},
		"group":              {exec: func(e *pb.ExecOp) { e.Meta.User = "ann:staff" }, want: []string{`user "ann:staff"`, "/etc/group", "number"}},
		"user's number":      {exec: func(e *pb.ExecOp) { e.Meta.User = "4294967296" }, want: []string{`user "4294967296"`, "range", "number"}},
		"limit":              {exec: func(e *pb.ExecOp) { e.Meta.Ulimit = []*pb.Ulimit{{Name: "files"}} }, want: []string{`ulimit "files"`, "nofile"}},
		"limits":             {exec: func(e *pb.ExecOp) { e.Meta.Ulimit = []*pb.Ulimit{{Name: "nofile", Soft: 2, Hard: 1}} }, want: []string{"ulimit nofile", "soft limit 2 is above the hard limit 1"}},
		"no limit":           {exec: func(e *pb.ExecOp) { e.Meta.Ulimit = []*pb.Ulimit{nil} }, want: []string{`ulimit ""`}},
		"host name":          {exec: func(e *pb.ExecOp) { e.Meta.Hostname = "a b" }, want: []string{`hostname "a b"`, "without spaces"}},
		"host":               {exec: func(e *pb.ExecOp) { e.Meta.ExtraHosts = []*pb.HostIP{{Host: "h", IP: "1.2"}} }, want: []string{`extra host "h"`, "1.2"}},
		"directory":          {exec: func(e *pb.ExecOp) { e.Meta.Cwd = "rel" }, want: []string{`working directory "rel"`, "absolute"}},
		"group of processes": {exec: func(e *pb.ExecOp) { e.Meta.CgroupParent = "a/../../b" }, want: []string{`cgroup parent "a/../../b"`, "..", "no"}},
		"mount over /":       {mount: &pb.Mount{Dest: "/x/..", Input: -1}, want: []string{"mount target"}},
		"program":            {exec: func(e *pb.ExecOp) { e.Meta.Args = []string{"/bin/nonesuch"} }, want: []string{`"/bin/nonesuch"`, "no such file"}},
		"exit code":          {exec: func(e *pb.ExecOp) { e.Meta.ValidExitCodes = []int32{3} }, want: []string{"exit code: 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			step := script("true")
			if c.mount != nil {
				c.mount.Output = -1
				step = script("true", c.mount)
			}
			if c.exec != nil {
				c.exec(step.Op.GetExec())
			}
			_, err := b.exec(b.ctx, step, input)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
		})
	}
	b.nothingMounted()
}

// TestExecKey: what can't change the result is in no key, and all else is, and in what
// explains it.
func TestExecKey(t *testing.T) {
	t.Parallel()
	key := func(change func(*pb.ExecOp)) schedule.Key {
		step := script("true", &pb.Mount{Dest: "/m", Input: -1, Output: -1, MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "x"}},
			&pb.Mount{Dest: "/s", Input: -1, Output: -1, MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "s"}})
		step.Op.GetExec().Meta.ExtraHosts = []*pb.HostIP{{Host: "h", IP: "192.0.2.1"}}
		change(step.Op.GetExec())
		k, err := NewExec(&ExecConfig{}, step, ExecGrants{}).Key(t.Context(), schedule.Job{})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	plain := key(func(*pb.ExecOp) {})
	for name, change := range map[string]func(*pb.ExecOp){
		"proxies":        func(e *pb.ExecOp) { e.Meta.ProxyEnv = &pb.ProxyEnv{HttpProxy: "h", AllProxy: "a"} },
		"host's address": func(e *pb.ExecOp) { e.Meta.ExtraHosts[0].IP = "192.0.2.2" },
		"cache's id":     func(e *pb.ExecOp) { e.Mounts[1].CacheOpt.ID = "y" },
		"cache's mode":   func(e *pb.ExecOp) { e.Mounts[1].CacheOpt.Sharing = pb.CacheSharingOpt_LOCKED },
	} {
		if key(change).Digest != plain.Digest {
			t.Errorf("%s changes the key", name)
		}
	}
	for name, change := range map[string]func(*pb.ExecOp){
		"arguments":   func(e *pb.ExecOp) { e.Meta.Args[2] = "false" },
		"environment": func(e *pb.ExecOp) { e.Meta.Env = []string{"HTTP_PROXY=h"} },
		"directory":   func(e *pb.ExecOp) { e.Meta.Cwd = "/d" },
		"user":        func(e *pb.ExecOp) { e.Meta.User = "u" },
		"host":        func(e *pb.ExecOp) { e.Meta.ExtraHosts[0].Host = "i" },
		"host name":   func(e *pb.ExecOp) { e.Meta.Hostname = "n" },
		"network":     func(e *pb.ExecOp) { e.Network = pb.NetMode_NONE },
		"security":    func(e *pb.ExecOp) { e.Security = pb.SecurityMode_INSECURE },
		"exit codes":  func(e *pb.ExecOp) { e.Meta.ValidExitCodes = []int32{1} },
		"limits":      func(e *pb.ExecOp) { e.Meta.Ulimit = []*pb.Ulimit{{Name: "core"}} },
		"target":      func(e *pb.ExecOp) { e.Mounts[1].Dest = "/n" },
		"secret":      func(e *pb.ExecOp) { e.Mounts[2].SecretOpt.ID = "t" },
		"root":        func(e *pb.ExecOp) { e.Mounts[0].Readonly = true },
		"cgroup":      func(e *pb.ExecOp) { e.Meta.CgroupParent = "p" },
		"stubs":       func(e *pb.ExecOp) { e.Meta.RemoveMountStubsRecursive = true },
	} {
		k := key(change)
		if k.Digest == plain.Digest {
			t.Errorf("%s is not in the key", name)
		}
		if slices.Equal(k.Parts, plain.Parts) {
			t.Errorf("%s is in no part of the key", name)
		}
	}
}
