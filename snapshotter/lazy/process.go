package lazy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/stargz-snapshotter/fusemanager/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
)

// connect gives the connection with the process, which it starts where it has to.
func (f *Filesystem) connect(ctx context.Context) (*grpc.ClientConn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conn != nil && f.conn.GetState() == connectivity.Ready {
		return f.conn, nil
	}
	if f.conn != nil {
		f.conn.Close()
		f.conn = nil
	}
	conn, err := dial(f.cfg.Root)
	if err != nil {
		return nil, err
	}
	if err := f.ready(ctx, conn); err != nil {
		conn.Close()
		return nil, err
	}
	f.conn = conn
	return conn, nil
}

func dial(root string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+Socket(root), grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// ready makes the process run with the settings.
func (f *Filesystem) ready(ctx context.Context, conn *grpc.ClientConn) error {
	client := api.NewStargzFuseManagerServiceClient(conn)
	if err := askStatus(ctx, client); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			// It is the caller who has no time: that says nothing of the process.
			return fmt.Errorf("look for the process that serves lazy layers: %w", cause)
		}
		if err := f.start(ctx); err != nil {
			return fmt.Errorf("start the process that serves lazy layers: %w", err)
		}
	}
	for {
		err := askStatus(ctx, client)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the process that serves lazy layers doesn't answer, see %s: %w", f.logFile(), err)
		}
		conn.ResetConnectBackoff()
		time.Sleep(10 * time.Millisecond)
	}
	settings, err := json.Marshal(f.cfg.Settings)
	if err != nil {
		return err
	}
	_, err = client.Init(ctx, &api.InitRequest{Root: f.cfg.Root, Config: settings})
	return err
}

// statusTimeout is how long a process may take to say that it is there.
const statusTimeout = 2 * time.Second

func askStatus(ctx context.Context, client api.StargzFuseManagerServiceClient) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	_, err := client.Status(ctx, &api.StatusRequest{})
	return err
}

// answers tells whether there is a process already.
func (f *Filesystem) answers() bool {
	if _, err := os.Stat(Socket(f.cfg.Root)); err != nil {
		return false
	}
	conn, err := dial(f.cfg.Root)
	if err != nil {
		return false
	}
	defer conn.Close()
	return askStatus(context.Background(), api.NewStargzFuseManagerServiceClient(conn)) == nil
}

// start starts a process that outlives this one, in place of one that hangs.
func (f *Filesystem) start(ctx context.Context) error {
	if err := f.killHung(ctx); err != nil {
		return err
	}
	if len(f.cfg.Command) == 0 {
		return errors.New("no command is configured")
	}
	out, err := os.OpenFile(f.logFile(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	args := append(slices.Clone(f.cfg.Command[1:]), f.cfg.Root)
	cmd := exec.Command(f.cfg.Command[0], args...)
	cmd.Dir = f.cfg.Root
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { // its end is noticed by calls that fail
		err := cmd.Wait()
		log.G(context.WithoutCancel(ctx)).WithError(err).Debug("the process that serves lazy layers has ended")
	}()
	return nil
}

func (f *Filesystem) logFile() string { return filepath.Join(f.cfg.Root, "fuse.log") }

// killHung ends a process that holds the lock and doesn't answer.
func (f *Filesystem) killHung(ctx context.Context) error {
	data, err := os.ReadFile(lockFile(f.cfg.Root))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if pid <= 1 || !slices.Contains(strings.Split(string(line), "\x00"), f.cfg.Root) {
		return nil // it has ended, and another one may have the number
	}
	log.G(ctx).Warnf("the process %d that serves lazy layers doesn't answer and is killed", pid)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill process %d, which doesn't answer: %w", pid, err)
	}
	return nil
}
