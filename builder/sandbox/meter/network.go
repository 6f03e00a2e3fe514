package meter

import (
	"fmt"
	"net"

	"github.com/kiln-build/kiln/builder/event/usage"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// ReadNetwork adds up the interfaces of the network namespace whose file is path.
func ReadNetwork(path string) (*usage.Network, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", path, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", path, err)
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("interfaces of %s: %w", path, err)
	}
	n := &usage.Network{}
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || a.Statistics == nil {
			continue
		}
		st := a.Statistics
		n.RxBytes, n.RxPackets = n.RxBytes+int64(st.RxBytes), n.RxPackets+int64(st.RxPackets)
		n.RxErrors, n.RxDropped = n.RxErrors+int64(st.RxErrors), n.RxDropped+int64(st.RxDropped)
		n.TxBytes, n.TxPackets = n.TxBytes+int64(st.TxBytes), n.TxPackets+int64(st.TxPackets)
		n.TxErrors, n.TxDropped = n.TxErrors+int64(st.TxErrors), n.TxDropped+int64(st.TxDropped)
	}
	return n, nil
}

// since is what came after earlier.
func since(n, earlier usage.Network) *usage.Network {
	return &usage.Network{
		RxBytes: n.RxBytes - earlier.RxBytes, RxPackets: n.RxPackets - earlier.RxPackets,
		RxErrors: n.RxErrors - earlier.RxErrors, RxDropped: n.RxDropped - earlier.RxDropped,
		TxBytes: n.TxBytes - earlier.TxBytes, TxPackets: n.TxPackets - earlier.TxPackets,
		TxErrors: n.TxErrors - earlier.TxErrors, TxDropped: n.TxDropped - earlier.TxDropped,
	}
}
