package op

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
)

// isAbsent tells whether the client has no secret or agent of the wanted id.
func isAbsent(err error) bool { return errdefs.IsNotFound(err) || errdefs.IsNotImplemented(err) }

// secret mounts a secret as a file that lies in memory only.
func (m *mounting) secret(ctx context.Context, mt *pb.Mount) error {
	opt := mt.SecretOpt
	data, err := m.cfg.Sessions.Secret(ctx, m.job.Sessions(), opt.ID)
	if err != nil {
		if opt.Optional && isAbsent(err) {
			return nil
		}
		return err
	}
	file, err := m.secretFile(opt, data)
	if err != nil {
		return fmt.Errorf("secret %s: %w", opt.ID, err)
	}
	options := []string{"bind", "ro", "nosuid", "nodev"}
	if opt.Mode&0o111 == 0 {
		options = append(options, "noexec")
	}
	m.mounts = append(m.mounts, sandbox.Mount{Target: m.target(mt), Source: file, Type: "bind", Options: options})
	return nil
}

func (m *mounting) secretFile(opt *pb.SecretOpt, data []byte) (string, error) {
	dir, err := os.MkdirTemp(m.cfg.Dir, "secret-")
	if err != nil {
		return "", err
	}
	m.undo = append(m.undo, func() { os.Remove(dir) })
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700,size="+strconv.Itoa(len(data)+64<<10)); err != nil {
		return "", fmt.Errorf("mount tmpfs: %w", err)
	}
	m.undo = append(m.undo, func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	file := filepath.Join(dir, "secret")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return "", err
	}
	uid, gid, err := m.users.Host(int(opt.Uid), int(opt.Gid))
	if err != nil {
		return "", err
	}
	if err := os.Chown(file, uid, gid); err != nil {
		return "", err
	}
	return file, os.Chmod(file, os.FileMode(opt.Mode&0o777))
}

// ssh mounts a socket behind which the client's agent answers.
func (m *mounting) ssh(ctx context.Context, mt *pb.Mount) error {
	opt := mt.SSHOpt
	dir, err := os.MkdirTemp(m.cfg.Dir, "ssh-")
	if err != nil {
		return err
	}
	m.undo = append(m.undo, func() { os.RemoveAll(dir) })
	uid, gid, err := m.users.Host(int(opt.Uid), int(opt.Gid))
	if err != nil {
		return err
	}
	var agent *session.Agent
	err = m.cfg.Sessions.Any(ctx, m.job.Sessions(), func(c *session.Client) (err error) {
		agent, err = c.ForwardSSH(ctx, session.SSHOptions{
			ID: opt.ID, Dir: dir, UID: uid, GID: gid, Mode: os.FileMode(opt.Mode & 0o777),
		})
		return err
	})
	if err != nil {
		if opt.Optional && isAbsent(err) {
			return nil
		}
		return err
	}
	m.undo = append(m.undo, func() { agent.Close() })
	m.mounts = append(m.mounts, sandbox.Mount{Target: m.target(mt), Source: agent.Path, Type: "bind", Options: []string{"bind"}})
	return nil
}
