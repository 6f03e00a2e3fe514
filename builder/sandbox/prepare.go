package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// prepare makes the bundle and the mount points of a checked Spec. What it made
// before an error is in undo too.
func (l *Local) prepare(ctx context.Context, s Spec, undo *undoer) (*run, error) {
	r := &run{Spec: s, bundle: filepath.Join(l.runsDir(), s.ID)}
	var err error
	if r.rlimits, err = l.ociRlimits(s.Ulimits); err != nil {
		return nil, err
	}
	if r.labels, err = l.newLabels(s.Security); err != nil {
		return nil, err
	}
	undo.add(r.labels.release)
	if err := os.Mkdir(r.bundle, 0o711); err != nil {
		return nil, fmt.Errorf("make bundle: %w", err)
	}
	undo.add(func() error { return os.RemoveAll(r.bundle) })
	t, err := openTree(s.Root)
	if err != nil {
		return nil, err
	}
	undo.add(t.Close)
	undo.add(r.close)
	if r.owner, err = lookupUser(t, s.User); err != nil {
		return nil, err
	}
	if r.hostOwner, err = r.owner.onHost(s.Users); err != nil {
		return nil, err
	}
	if err := l.connect(ctx, t, r, undo); err != nil {
		return nil, err
	}
	if err := l.writeEtc(r); err != nil {
		return nil, err
	}
	if err := r.openNetwork(undo); err != nil {
		return nil, err
	}
	also, err := l.deviceMounts(s.Devices)
	if err != nil {
		return nil, err
	}
	err = s.Users.Do(func() error { return makeMountPoints(t, r, also, undo) })
	if err != nil {
		return nil, err
	}
	r.spec = l.ociSpec(r)
	if err := l.cfg.Devices.Add(r.spec, s.Devices); err != nil {
		return nil, err
	}
	if r.engine, err = l.engineFor(r); err != nil {
		return nil, err
	}
	undo.add(func() error { return r.engine.remove(ctx, s.ID, r.spec.Linux.CgroupsPath) })
	return r, nil
}

// connect gives r its network. With a proxy, r's mounts may get more, and the tree a
// certificate until the end.
func (l *Local) connect(ctx context.Context, t *tree, r *run, undo *undoer) (err error) {
	if !r.proxied() {
		r.network, err = newNetwork(ctx, r.Spec, l.cfg.Network)
	} else {
		r.network, err = l.proxiedNetwork(ctx, r)
	}
	if err != nil {
		return err
	}
	undo.add(r.network.close)
	r.Env = replaceEnv(r.Env, r.network.env)
	if !r.proxied() {
		return nil
	}
	if r.ReadonlyRoot {
		return t.showTrust(r)
	}
	distrust, err := t.trust(r.Proxy.Certificate())
	if err != nil {
		return err
	}
	undo.add(distrust)
	return nil
}

func (l *Local) writeEtc(r *run) error {
	resolv, err := resolvFile("/", r.network, l.cfg.DNS)
	if err != nil {
		return err
	}
	if err := r.writeShared("resolv.conf", resolv); err != nil {
		return err
	}
	return r.writeShared("hosts", hostsFile(r.Hostname, r.ExtraHosts))
}

// writeShared writes a file of the bundle that any user of the sandbox can read,
// whatever the umask, and that belongs to its root.
func (r *run) writeShared(name, content string) error {
	file := filepath.Join(r.bundle, name)
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		return err
	}
	if err := os.Chmod(file, 0o644); err != nil || r.Users == nil {
		return err
	}
	uid, gid, err := r.Users.Host(0, 0)
	if err != nil {
		return err
	}
	return os.Chown(file, uid, gid)
}

func writeJSON(name string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(name, text, 0o600)
}

// deviceMounts are the mounts that come with devices.
func (l *Local) deviceMounts(devices []string) ([]Mount, error) {
	var s specs.Spec
	if err := l.cfg.Devices.Add(&s, devices); err != nil {
		return nil, err
	}
	var mounts []Mount
	for _, m := range s.Mounts {
		mounts = append(mounts, Mount{Target: m.Destination, Source: m.Source, Type: m.Type, Options: m.Options})
	}
	return checkedMounts(mounts)
}

// makeMountPoints makes the stubs of r's mounts, and of others, and the working
// directory. The mount points of /proc, /dev and /sys are left to the engine: they
// stay in the tree, as with other builders.
func makeMountPoints(t *tree, r *run, also []Mount, undo *undoer) error {
	s := newStubs(t)
	undo.add(s.remove)
	s.hide("/proc", "/dev", "/sys")
	parents := keepParents
	if r.RemoveStubsRecursive {
		parents = removeParents
	}
	files := []Mount{
		{Target: "/etc/resolv.conf", Type: "bind", Source: filepath.Join(r.bundle, "resolv.conf")},
		{Target: "/etc/hosts", Type: "bind", Source: filepath.Join(r.bundle, "hosts")},
	}
	for _, m := range slices.Concat(files, r.Mounts, also) {
		if err := s.add(m, parents); err != nil {
			return err
		}
	}
	return makeCwd(t, s, r)
}

// makeCwd makes the working directory, if the tree is where it belongs: below a
// mount, or on a read-only root, it is the engine's to make or to miss.
func makeCwd(t *tree, s *stubs, r *run) error {
	cwd, err := t.resolve(r.Cwd)
	if err != nil {
		return err
	}
	if s.hidden(cwd) {
		return nil
	}
	if err := t.mkdirAll(cwd, r.hostOwner); err != nil && !errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("make working directory %s: %w", r.Cwd, cause(err))
	}
	return nil
}
