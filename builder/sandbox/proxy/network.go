package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/kiln-build/kiln/builder/sandbox/netns"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/netutil"
)

// The ends of the wire. Every network has the same: nothing else is there, and what
// a step writes down about its proxy is the same whenever it runs.
const (
	listenAddress  = "10.89.0.1:3128"
	outsideAddress = "10.89.0.1/30"
	insideAddress  = "10.89.0.2/30"
)

const (
	// maxConns bounds the connections of one network.
	maxConns = 256
	// maxHeader bounds the head of a request, maxAnswerHeader that of an answer.
	maxHeader       = 64 << 10
	maxAnswerHeader = 1 << 20

	handshakeTimeout = 30 * time.Second
	headerTimeout    = 30 * time.Second
	idleTimeout      = 2 * time.Minute
)

// Place says where a network is, and how its proxy goes on.
type Place struct {
	// Dir is where the files of its namespaces are kept. It is the caller's.
	Dir    string
	Egress Egress
}

// Network is one that has nothing in it but its proxy. Close it.
type Network struct {
	proxy           *Proxy
	inside, outside string // files of network namespaces
	egress          Egress
	transport       *http.Transport

	ctx     context.Context // until Close
	cancel  context.CancelFunc
	plain   *http.Server
	opened  *http.Server // what comes through tunnels
	tunnels *queue
	work    sync.WaitGroup // servers and connections
}

func files(dir string) (inside, outside string) {
	return filepath.Join(dir, "proxied"), filepath.Join(dir, "proxy")
}

// Open makes a network whose requests p answers.
func (p *Proxy) Open(place Place) (_ *Network, err error) {
	n := &Network{proxy: p, egress: place.Egress, tunnels: newQueue()}
	n.inside, n.outside = files(place.Dir)
	n.ctx, n.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make a network with a proxy: %w", err), n.Close())
		}
	}()
	for _, file := range []string{n.inside, n.outside} {
		if err := netns.Make(file); err != nil {
			return nil, err
		}
	}
	if err := wire(n.inside, n.outside); err != nil {
		return nil, err
	}
	var l net.Listener
	err = netns.Do(n.outside, func() (err error) {
		l, err = net.Listen("tcp4", listenAddress)
		return err
	})
	if err != nil {
		return nil, err
	}
	n.start(netutil.LimitListener(l, maxConns))
	return n, nil
}

// wire connects the namespaces with each other.
func wire(inside, outside string) error {
	peer, err := os.Open(outside)
	if err != nil {
		return err
	}
	defer peer.Close()
	err = netns.Do(inside, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth0"
		link := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(peer.Fd()))}
		if err := netlink.LinkAdd(link); err != nil {
			return fmt.Errorf("make a pair of interfaces: %w", err)
		}
		return up(insideAddress)
	})
	if err != nil {
		return err
	}
	return netns.Do(outside, func() error { return up(outsideAddress) })
}

// up gives the interface of the calling thread's namespace its address.
func up(address string) error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("address %s: %w", address, err)
	}
	return netlink.LinkSetUp(link)
}

// Path is the file of the namespace that processes belong into.
func (n *Network) Path() string { return n.inside }

// Close ends all requests and waits until nothing of the network is left.
func (n *Network) Close() error {
	n.cancel()
	if n.plain != nil {
		n.plain.Close()
		n.opened.Close()
		n.work.Wait()
		n.transport.CloseIdleConnections()
	}
	return remove(n.inside, n.outside)
}

// Remove removes what a killed process has left of a network in dir.
func Remove(dir string) error { return remove(files(dir)) }

func remove(inside, outside string) error {
	return errors.Join(netns.Remove(inside), netns.Remove(outside))
}
