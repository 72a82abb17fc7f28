package network

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A Network is a bridge with containers on it.
type Network struct {
	// Dir holds the leases. It must not outlive a boot: it is below /run.
	Dir string
	// Bridge is the interface's name.
	Bridge string
	// Subnet is what addresses are from; the first is the bridge's.
	Subnet netip.Prefix
}

// DefaultSubnet overlaps neither docker's (172.17 to 172.31) nor podman's (10.88, 10.89).
var DefaultSubnet = netip.MustParsePrefix("10.188.0.0/20")

// A Lease is a container's place in a network.
type Lease struct {
	Container string     `json:"container"`
	Address   netip.Addr `json:"address"`
	Ports     []Port     `json:"ports,omitempty"`
}

// Gateway is the bridge's address.
func (n *Network) Gateway() netip.Addr { return n.Subnet.Masked().Addr().Next() }

// link is the host's end of a container's cable.
func link(id string) string {
	sum := sha256.Sum256([]byte(id))
	return "pd" + hex.EncodeToString(sum[:6])
}

// Attach gives the process of a container, in its network namespace, an interface eth0
// with an address, and publishes its ports. What an earlier Attach of the container left
// is removed first; if it fails, nothing is left.
func (n *Network) Attach(id string, pid int, ports []Port) (lease *Lease, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unlock, err := n.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := n.detach(id); err != nil {
		return nil, err
	}
	if lease, err = n.reserve(id, ports); err != nil {
		return nil, fmt.Errorf("cannot connect container %s: %w", id, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("cannot connect container %s: %w", id, err), n.detach(id))
		}
	}()
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer host.Close()
	bridge, err := n.bridge(host)
	if err != nil {
		return nil, err
	}
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return nil, fmt.Errorf("cannot open its network namespace: %w", err)
	}
	defer ns.Close()
	if err := cable(host, bridge, ns, link(id)); err != nil {
		return nil, err
	}
	if err := n.inside(ns, lease.Address); err != nil {
		return nil, err
	}
	return lease, n.rules()
}

// Detach takes a container off the network. One that is on none is no error.
func (n *Network) Detach(id string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, err := os.Stat(n.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil // there never was a network
	}
	unlock, err := n.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return n.detach(id)
}

func (n *Network) detach(id string) error {
	leases, err := n.Leases()
	if err != nil {
		return err
	}
	mine := slices.DeleteFunc(slices.Clone(leases), func(l Lease) bool { return l.Container != id })
	if len(mine) == 0 {
		return nil // a cable is there only while a lease is
	}
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("cannot disconnect container %s: %w", id, err)
	}
	defer host.Close()
	if err := pull(host, link(id)); err != nil {
		return fmt.Errorf("cannot disconnect container %s: %w", id, err)
	}
	if err := n.rules(id); err != nil {
		return fmt.Errorf("cannot disconnect container %s: %w", id, err)
	}
	for _, l := range mine {
		if err := os.Remove(n.file(l.Address)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot disconnect container %s: %v", id, err)
		}
	}
	return nil
}

func (n *Network) file(a netip.Addr) string { return filepath.Join(n.Dir, a.String()) }

func (n *Network) lock() (unlock func(), err error) {
	if err := os.MkdirAll(n.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the network's folder: %v", err)
	}
	f, err := os.OpenFile(filepath.Join(n.Dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the network: %v", err)
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot lock the network: %v", err)
	}
	return func() { f.Close() }, nil
}

// Leases are those of all containers, by address.
func (n *Network) Leases() ([]Lease, error) {
	entries, err := os.ReadDir(n.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read the network's leases: %v", err)
	}
	var out []Lease
	for _, e := range entries {
		a, err := netip.ParseAddr(e.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join(n.Dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		l := Lease{}
		if err == nil {
			err = json.Unmarshal(data, &l)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read lease %s: %v", filepath.Join(n.Dir, e.Name()), err)
		}
		l.Address = a
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b Lease) int { return a.Address.Compare(b.Address) })
	return out, nil
}

// reserve writes a lease of the lowest free address.
func (n *Network) reserve(id string, ports []Port) (*Lease, error) {
	leases, err := n.Leases()
	if err != nil {
		return nil, err
	}
	used := map[netip.Addr]bool{}
	for _, l := range leases {
		used[l.Address] = true
		for _, theirs := range l.Ports {
			for _, p := range ports {
				if p.clash(theirs) {
					return nil, fmt.Errorf("cannot publish port %s: container %s publishes it", p, l.Container)
				}
			}
		}
	}
	for i, p := range ports {
		if slices.ContainsFunc(ports[:i], p.clash) {
			return nil, fmt.Errorf("cannot publish port %s twice", p)
		}
		if err := free(p); err != nil {
			return nil, err
		}
	}
	for a := n.Gateway().Next(); n.Subnet.Contains(a.Next()); a = a.Next() { // but the broadcast address
		if used[a] {
			continue
		}
		l := &Lease{Container: id, Address: a, Ports: ports}
		data, err := json.Marshal(l)
		if err != nil {
			return nil, err
		}
		f, err := os.CreateTemp(n.Dir, "new-")
		if err != nil {
			return nil, fmt.Errorf("cannot write a lease: %v", err)
		}
		_, err = f.Write(data)
		if err = errors.Join(err, f.Close()); err == nil {
			err = os.Rename(f.Name(), n.file(a))
		}
		if err != nil {
			return nil, fmt.Errorf("cannot write a lease: %v", err)
		}
		return l, nil
	}
	return nil, fmt.Errorf("all addresses of %s are in use", n.Subnet)
}

// free tells whether no process of the host listens on a port.
func free(p Port) error {
	ip := ""
	if p.HostIP.IsValid() {
		ip = p.HostIP.String()
	}
	at := net.JoinHostPort(ip, fmt.Sprint(p.Host))
	var err error
	var c interface{ Close() error }
	if p.Protocol == "udp" {
		c, err = net.ListenPacket("udp4", at)
	} else {
		c, err = net.Listen("tcp4", at)
	}
	if err != nil {
		return fmt.Errorf("cannot publish port %s: %w", p, err)
	}
	return c.Close()
}

// bridge finds the bridge, or makes it.
func (n *Network) bridge(host *netlink.Handle) (netlink.Link, error) {
	l, err := host.LinkByName(n.Bridge)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		if err := n.overlaps(host); err != nil {
			return nil, err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = n.Bridge
		if err := host.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("make bridge %s: %w", n.Bridge, err)
		}
		l, err = host.LinkByName(n.Bridge)
	}
	if err != nil {
		return nil, fmt.Errorf("find bridge %s: %w", n.Bridge, err)
	}
	if l.Type() != "bridge" {
		return nil, fmt.Errorf("%s is there and no bridge but a %s: name another", n.Bridge, l.Type())
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: n.Gateway().AsSlice(), Mask: net.CIDRMask(n.Subnet.Bits(), 32)}}
	if err := host.AddrReplace(l, address); err != nil {
		return nil, fmt.Errorf("give bridge %s its address: %w", n.Bridge, err)
	}
	if err := host.LinkSetUp(l); err != nil {
		return nil, fmt.Errorf("bring up bridge %s: %w", n.Bridge, err)
	}
	// 127.0.0.1 reaches published ports only if the bridge may carry it; what the
	// containers see of it is the bridge's address.
	for file, value := range map[string]string{"ip_forward": "1", "conf/" + n.Bridge + "/route_localnet": "1"} {
		name := "/proc/sys/net/ipv4/" + file
		if now, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(now)) == value {
			continue
		}
		if err := os.WriteFile(name, []byte(value), 0o644); err != nil {
			return nil, fmt.Errorf("set %s to %s: %w", name, value, err)
		}
	}
	return l, nil
}

// overlaps refuses a subnet that the host reaches in another way.
func (n *Network) overlaps(host *netlink.Handle) error {
	routes, err := host.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list the host's routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue // the default route
		}
		ip, ok := netip.AddrFromSlice(r.Dst.IP.To4())
		if ones, _ := r.Dst.Mask.Size(); ok && ones > 0 && netip.PrefixFrom(ip, ones).Overlaps(n.Subnet) {
			return fmt.Errorf("the host has a route to %s, which overlaps the containers' subnet %s: choose another with --subnet", r.Dst, n.Subnet)
		}
	}
	return nil
}

// pull removes a container's cable, if there is one.
func pull(host *netlink.Handle, name string) error {
	l, err := host.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil {
		err = host.LinkDel(l)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// cable makes a pair of interfaces: one on the bridge, and eth0, which has never been
// anywhere but in the container.
func cable(host *netlink.Handle, bridge netlink.Link, ns netns.NsHandle, name string) error {
	if err := pull(host, name); err != nil { // a crash left it
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = name, bridge.Attrs().Index
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = "eth0", netlink.NsFd(ns)
	if err := host.LinkAdd(veth); err != nil {
		return fmt.Errorf("make interface %s and its eth0: %w", name, err)
	}
	l, err := host.LinkByName(name)
	if err == nil {
		err = host.LinkSetHairpin(l, true) // its own published ports
	}
	if err == nil {
		err = host.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	return nil
}

// inside sets up the container's end.
func (n *Network) inside(ns netns.NsHandle, address netip.Addr) error {
	in, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter its network namespace: %w", err)
	}
	defer in.Close()
	lo, err := in.LinkByName("lo")
	if err == nil {
		err = in.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("bring up its lo: %w", err)
	}
	eth, err := in.LinkByName("eth0")
	if err == nil {
		err = in.AddrAdd(eth, &netlink.Addr{IPNet: &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(n.Subnet.Bits(), 32)}})
	}
	if err == nil {
		err = in.LinkSetUp(eth)
	}
	if err == nil {
		err = in.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: n.Gateway().AsSlice()})
	}
	if err != nil {
		return fmt.Errorf("set up its eth0: %w", err)
	}
	return nil
}

// Resolv is a container's resolv.conf: the host's, without resolvers that listen on the
// host alone, or with those that are wanted instead.
//
// See resolv.conf(5).
func Resolv(host string, dns []netip.Addr) string {
	var b strings.Builder
	found := false
	for line := range strings.Lines(host) {
		f := strings.Fields(line)
		if len(f) > 0 && f[0] == "nameserver" {
			if len(f) < 2 || len(dns) > 0 {
				continue
			}
			if a, err := netip.ParseAddr(f[1]); err != nil || a.IsLoopback() {
				continue
			}
			found = true
		}
		b.WriteString(strings.TrimRight(line, "\n") + "\n")
	}
	for _, a := range dns {
		found = true
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	if !found {
		b.WriteString("# The host's resolver listens on the host alone: give --dns.\n")
	}
	return b.String()
}
