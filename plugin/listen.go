package plugin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/log"
	"github.com/kiln-build/kiln/plugin/config"
)

// firstSocket is the file descriptor of the first socket that systemd passes.
const firstSocket = 3

// listen opens all addresses, or none.
func listen(ctx context.Context, cfg config.Config, sd config.Systemd) (_ []net.Listener, err error) {
	var all []net.Listener
	defer func() {
		if err != nil {
			closeAll(all)
		}
	}()
	for _, address := range cfg.Addresses {
		l, err := listenOn(ctx, address, cfg, sd)
		if err != nil {
			return nil, fmt.Errorf("address %s: %w", address, err)
		}
		all = append(all, l)
	}
	return all, nil
}

func closeAll(all []net.Listener) {
	for _, l := range all {
		l.Close()
	}
}

func listenOn(ctx context.Context, address string, cfg config.Config, sd config.Systemd) (net.Listener, error) {
	scheme, rest, _ := strings.Cut(address, "://")
	switch scheme {
	case "unix":
		return listenUnix(rest, cfg.User, cfg.Group)
	case "tcp":
		return listenTCP(ctx, rest, cfg.TLS)
	case "fd":
		return passedSocket(sd)
	}
	return nil, errors.New("begins with none of unix://, tcp:// and fd://")
}

// listenUnix listens on a socket that only the owner and the group can open. A socket
// that a dead process left is replaced.
func listenUnix(path, owner, group string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	uid, err := userID(owner)
	if err != nil {
		return nil, err
	}
	gid, err := groupID(group)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chown(path, uid, gid), os.Chmod(path, 0o660)); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSocket == 0 {
		return errors.New("there is something that is not a socket; remove it or choose another address")
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return errors.New("another process answers there; stop it or choose another address")
	}
	return os.Remove(path)
}

// userID returns -1, for no change, where there is no user.
func userID(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	if uid, err := strconv.Atoi(name); err == nil {
		return uid, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, fmt.Errorf("user: %w", err)
	}
	return strconv.Atoi(u.Uid)
}

// groupID returns -1, for no change, where there is no group.
func groupID(group string) (int, error) {
	if group == "" {
		return -1, nil
	}
	if gid, err := strconv.Atoi(group); err == nil {
		return gid, nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("group: %w", err)
	}
	return strconv.Atoi(g.Gid)
}

func listenTCP(ctx context.Context, address string, files config.TLS) (net.Listener, error) {
	settings, err := serverTLS(files)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	if settings == nil {
		log.G(ctx).Warnf("everybody who reaches tcp://%s can build, and do as root what builds can do; set tls.cert, tls.key and tls.ca", l.Addr())
		return l, nil
	}
	return tls.NewListener(l, settings), nil
}

// serverTLS returns nil where TLS is not configured.
func serverTLS(files config.TLS) (*tls.Config, error) {
	if files.Cert == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	settings := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}
	if files.CA == "" {
		return settings, nil
	}
	pem, err := os.ReadFile(files.CA)
	if err != nil {
		return nil, fmt.Errorf("tls.ca: %w", err)
	}
	settings.ClientCAs = x509.NewCertPool()
	if !settings.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls.ca: %s holds no certificate", files.CA)
	}
	settings.ClientAuth = tls.RequireAndVerifyClientCert
	return settings, nil
}

// passedSocket is the first socket that systemd passes.
func passedSocket(sd config.Systemd) (net.Listener, error) {
	if sd.Sockets == 0 {
		return nil, errors.New("no socket was passed; fd:// is for units that a socket unit starts")
	}
	f := os.NewFile(firstSocket, "passed socket")
	defer f.Close()
	return net.FileListener(f)
}
