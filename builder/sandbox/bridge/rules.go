package bridge

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// write fills the table. As nft would list it:
//
//	chain outside { type filter hook prerouting priority raw; # nobody gets at the host's loopback
//		iifname BRIDGE ip daddr 127.0.0.0/8 drop }
//	chain between { type filter hook forward priority filter;
//		iifname BRIDGE oifname BRIDGE drop
//		iifname BRIDGE accept
//		oifname BRIDGE ct state established,related accept
//		oifname BRIDGE drop }
//	chain masquerade { type nat hook postrouting priority srcnat;
//		ip saddr SUBNET oifname != BRIDGE masquerade }
func (t *table) write(subnet netip.Prefix) error {
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	outside := t.chain("outside", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	t.rule(outside, expr.VerdictDrop, from(t.name), addressed(destinationOffset, loopback))

	between := t.chain("between", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	t.rule(between, expr.VerdictDrop, from(t.name), to(t.name))
	t.rule(between, expr.VerdictAccept, from(t.name))
	t.rule(between, expr.VerdictAccept, to(t.name), answers())
	t.rule(between, expr.VerdictDrop, to(t.name))

	masquerade := t.chain("masquerade", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	elsewhere := to(t.name)
	elsewhere[1].(*expr.Cmp).Op = expr.CmpOpNeq
	t.conn.AddRule(&nftables.Rule{
		Table: t.Table, Chain: masquerade,
		Exprs: slices.Concat(addressed(sourceOffset, subnet), elsewhere, []expr.Any{&expr.Masq{}}),
	})
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("rules of nftables: %w", err)
	}
	return nil
}

func (t *table) chain(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
	return t.conn.AddChain(&nftables.Chain{Table: t.Table, Name: name, Type: kind, Hooknum: hook, Priority: priority})
}

// rule adds a rule for packets that all of the conditions are true of.
func (t *table) rule(c *nftables.Chain, verdict expr.VerdictKind, conditions ...[]expr.Any) {
	t.conn.AddRule(&nftables.Rule{
		Table: t.Table, Chain: c,
		Exprs: append(slices.Concat(conditions...), &expr.Verdict{Kind: verdict}),
	})
}

// from and to say by which interface packets come, and go.
func from(name string) []expr.Any { return by(expr.MetaKeyIIFNAME, name) }
func to(name string) []expr.Any   { return by(expr.MetaKeyOIFNAME, name) }

func by(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte(name), 0)},
	}
}

// Where addresses are in the header of IPv4.
const (
	sourceOffset      = 12
	destinationOffset = 16
)

// addressed says that packets are of IPv4, with an address in a subnet.
func addressed(offset uint32, subnet netip.Prefix) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: net.CIDRMask(subnet.Bits(), 32), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: subnet.Addr().AsSlice()},
	}
}

// answers says that packets belong to a connection that the other side began.
func answers() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4, Xor: make([]byte, 4),
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}
