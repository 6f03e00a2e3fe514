package server

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/containerd/log"
	"github.com/containerd/stargz-snapshotter/service/keychain/cri"
	"github.com/containerd/stargz-snapshotter/service/keychain/dockerconfig"
	"github.com/containerd/stargz-snapshotter/service/resolver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kiln-build/kiln/snapshotter/lazy"
)

// keychain is the credentials that this machine has.
type keychain struct {
	ctx     context.Context // of the service for CRI, ends with close
	close   func()
	cri     resolver.Credential // nil for none
	docker  resolver.Credential // nil for none
	kube    *kubeSecrets        // nil for none
	limited chan struct{}       // slots for those who look something up
}

func newKeychain(s lazy.Settings) *keychain {
	ctx, cancel := context.WithCancel(context.Background())
	k := &keychain{ctx: ctx, close: cancel, limited: make(chan struct{}, 16)}
	if s.DockerConfig {
		k.docker = dockerconfig.NewDockerconfigKeychain(ctx)
	}
	if s.Kubeconfig != "" {
		k.kube = &kubeSecrets{kubeconfig: s.Kubeconfig}
	}
	return k
}

// lookupTimeout bounds a look-up, which may run a program or wait for a lock.
const lookupTimeout = 10 * time.Second

// credentials looks for those of a host: first in what kubelets sent, then in
// Docker's file, then in the cluster's secrets. None is no error. It does so after
// close, too: what was mounted before is still read.
func (k *keychain) credentials(host string, ref reference.Spec) (user, secret string, _ error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.ctx), lookupTimeout)
	defer cancel()
	all := []resolver.Credential{k.cri, k.docker}
	if k.kube != nil {
		all = append(all, func(host string, _ reference.Spec) (string, string, error) { return k.kube.find(ctx, host) })
	}
	for _, find := range all {
		if find == nil {
			continue
		}
		user, secret, err := k.lookup(ctx, func() (string, string, error) { return find(host, ref) })
		if err != nil {
			log.G(ctx).WithError(err).Warnf("lazy layers: credentials for %s", host)
			continue
		}
		if user != "" || secret != "" {
			return user, secret, nil
		}
	}
	return "", "", nil
}

func (k *keychain) lookup(ctx context.Context, find func() (string, string, error)) (user, secret string, err error) {
	select {
	case k.limited <- struct{}{}:
	case <-ctx.Done():
		return "", "", ctx.Err()
	}
	type found struct {
		user, secret string
		err          error
	}
	done := make(chan found, 1)
	go func() {
		defer func() { <-k.limited }()
		user, secret, err := find()
		done <- found{user, secret, err}
	}()
	select {
	case f := <-done:
		return f.user, f.secret, f.err
	case <-ctx.Done():
		return "", "", ctx.Err()
	}
}

// criService passes on a kubelet's requests for images.
type criService struct{ *grpc.Server }

// serveCRI serves on the socket and remembers the credentials that pass by.
func (k *keychain) serveCRI(c lazy.CRI) (*criService, error) {
	if err := os.Remove(c.Socket); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	l, err := net.Listen("unix", c.Socket)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(c.Socket, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	conn, err := grpc.NewClient("unix://"+c.Image, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("image service %s: %w", c.Image, err)
	}
	find, service := cri.NewCRIKeychain(k.ctx, func() (runtime.ImageServiceClient, error) {
		return runtime.NewImageServiceClient(conn), nil
	})
	k.cri = find
	s := &criService{grpc.NewServer()}
	runtime.RegisterImageServiceServer(s, service)
	go func() {
		if err := s.Serve(l); err != nil {
			log.G(k.ctx).WithError(err).Warn("lazy layers: image service for CRI")
		}
		conn.Close()
	}()
	return s, nil
}
