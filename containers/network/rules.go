package network

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rules makes the table anew from the leases, but those of the containers given. With
// none left there is no table.
func (n *Network) rules(without ...string) error {
	leases, err := n.Leases()
	if err != nil {
		return err
	}
	leases = slices.DeleteFunc(leases, func(l Lease) bool { return slices.Contains(without, l.Container) })
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("set rules: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "powerd"}
	c.AddTable(table) // so that there is one to delete
	c.DelTable(table)
	if len(leases) > 0 {
		c.AddTable(table)
		chain := func(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
			return c.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: priority})
		}
		in := chain("prerouting", nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
		own := chain("output", nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
		out := chain("postrouting", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
		for _, l := range leases {
			for _, p := range l.Ports {
				for _, at := range []*nftables.Chain{in, own} {
					c.AddRule(&nftables.Rule{Table: table, Chain: at, Exprs: publish(p, l)})
				}
			}
		}
		// To elsewhere: from the host's address.
		c.AddRule(&nftables.Rule{Table: table, Chain: out, Exprs: slices.Concat(n.inSubnet(saddr, expr.CmpOpEq), n.inSubnet(daddr, expr.CmpOpNeq), []expr.Any{&expr.Masq{}})})
		// To a published port from a neighbour, itself or the host's 127.0.0.1: from the
		// bridge's address, or the answer would go another way.
		c.AddRule(&nftables.Rule{Table: table, Chain: out, Exprs: slices.Concat(n.inSubnet(saddr, expr.CmpOpEq), translated(), []expr.Any{&expr.Masq{}})})
		c.AddRule(&nftables.Rule{Table: table, Chain: out, Exprs: slices.Concat(match(saddr, []byte{255, 0, 0, 0}, []byte{127, 0, 0, 0}, expr.CmpOpEq), n.inSubnet(daddr, expr.CmpOpEq), []expr.Any{&expr.Masq{}})})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("set the rules of table ip powerd: %w (has the kernel nf_tables, nft_nat, nft_masq and nft_fib?)", err)
	}
	return nil
}

// Offsets in the IPv4 header.
const (
	saddr = 12
	daddr = 16
)

// match compares the masked address at an offset of the header.
func match(at uint32, mask, want []byte, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: []byte{0, 0, 0, 0}},
		&expr.Cmp{Op: op, Register: 1, Data: want},
	}
}

func (n *Network) inSubnet(at uint32, op expr.CmpOp) []expr.Any {
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-n.Subnet.Bits()))
	return match(at, mask, n.Subnet.Masked().Addr().AsSlice(), op)
}

// translated matches connections whose destination was changed: IPS_DST_NAT of
// linux/netfilter/nf_conntrack_common.h.
func translated() []expr.Any {
	const dstNAT = 1 << 5
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(dstNAT), Xor: []byte{0, 0, 0, 0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0, 0, 0}},
	}
}

// publish sends what comes for a port of the host to the container.
func publish(p Port, l Lease) []expr.Any {
	protocol := byte(unix.IPPROTO_TCP)
	if p.Protocol == "udp" {
		protocol = unix.IPPROTO_UDP
	}
	var to []expr.Any
	if p.HostIP.IsValid() {
		to = match(daddr, []byte{255, 255, 255, 255}, p.HostIP.AsSlice(), expr.CmpOpEq)
	} else {
		to = []expr.Any{
			&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
		}
	}
	return slices.Concat(to, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, p.Host)},
		&expr.Immediate{Register: 1, Data: l.Address.AsSlice()},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, p.Container)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
	})
}
