package bridge

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// errTaken: somebody else has what is claimed.
var errTaken = errors.New("the name is taken")

// table is one of nftables that belongs to this process: it goes with it.
type table struct {
	name string // of the bridge
	*nftables.Table
	conn *nftables.Conn
}

// tableOwned is NFT_TABLE_F_OWNER of linux/netfilter/nf_tables.h, since Linux 5.12.
const tableOwned = 0x2

// claim makes the table of a bridge. It fails with errTaken if there is one. Release
// the table.
func claim(bridge string) (*table, error) { return claimTable(bridge, "kiln-"+bridge) }

func claimTable(bridge, name string) (*table, error) {
	t := &table{name: bridge, Table: &nftables.Table{Name: name, Family: nftables.TableFamilyINet}}
	var socket *netlink.Conn
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		socket = c
		return nil
	}))
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	t.conn = conn
	// Who has no rights gets the same error from the kernel as who comes second.
	if _, err := conn.ListTables(); err != nil {
		return nil, errors.Join(fmt.Errorf("nftables of the kernel: %w", err), conn.CloseLasting())
	}
	if err := own(socket, name); err != nil {
		return nil, errors.Join(err, conn.CloseLasting())
	}
	return t, nil
}

// own makes a table that belongs to the socket, which the library can't.
func own(socket *netlink.Conn, name string) error {
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(name), 0)},
		{Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, tableOwned)},
	})
	if err != nil {
		return err
	}
	const create = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE
	_, err = socket.SendMessages([]netlink.Message{
		message(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.NFPROTO_UNSPEC, nil),
		message(create, netlink.Acknowledge|netlink.Create|netlink.Excl, unix.NFPROTO_INET, attrs),
		message(unix.NFNL_MSG_BATCH_END, 0, unix.NFPROTO_UNSPEC, nil),
	})
	if err == nil {
		_, err = socket.Receive()
	}
	switch {
	case errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w: there is a table of nftables for it, most likely of another daemon that runs", name, errTaken)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("the kernel has no tables of nftables that go with their process; it takes Linux 5.12: %w", err)
	case err != nil:
		return fmt.Errorf("make table %s of nftables: %w", name, err)
	}
	return nil
}

// message is one of nfnetlink, whose header (struct nfgenmsg) is the family, a
// version and a number that says for whom a batch is.
func message(kind netlink.HeaderType, flags netlink.HeaderFlags, family byte, attrs []byte) netlink.Message {
	header := []byte{family, unix.NFNETLINK_V0, 0, 0}
	if kind != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE {
		binary.BigEndian.PutUint16(header[2:], unix.NFNL_SUBSYS_NFTABLES)
	}
	return netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | flags},
		Data:   append(header, attrs...),
	}
}

// release removes the table.
func (t *table) release() error {
	t.conn.DelTable(t.Table)
	if err := errors.Join(t.conn.Flush(), t.conn.CloseLasting()); err != nil {
		return fmt.Errorf("remove table %s of nftables: %w", t.Name, err)
	}
	return nil
}

// aloneTimeout bounds the wait for others that make or remove bridges.
const aloneTimeout = 20 * time.Second

// alone calls f while no other process in this network namespace makes or removes a
// bridge. An empty table says so.
func alone(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, aloneTimeout)
	defer cancel()
	for {
		lock, err := claimTable("", "kiln")
		if err == nil {
			return errors.Join(f(), lock.release())
		}
		if !errors.Is(err, errTaken) {
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for another daemon that makes a bridge: %w", errors.Join(ctx.Err(), err))
		}
	}
}
