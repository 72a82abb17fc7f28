package network

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// MoveDevice moves an interface of the host's into the network namespace of a process,
// under its new name if it gets one, with its global addresses, and brings it up. When
// the namespace ends, the kernel gives a physical one back to the host.
//
// See https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config-linux.md#network-devices.
func MoveDevice(pid int, name string, d specs.LinuxNetDevice) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := moveDevice(pid, name, d); err != nil {
		return fmt.Errorf("cannot move interface %s into the container: %w", name, err)
	}
	return nil
}

func moveDevice(pid int, name string, d specs.LinuxNetDevice) error {
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer host.Close()
	l, err := host.LinkByName(name)
	if err != nil {
		return err
	}
	addresses, err := host.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list its addresses: %w", err)
	}
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return err
	}
	defer ns.Close()
	in, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer in.Close()
	to := cmp.Or(d.Name, name)
	if _, err := in.LinkByName(to); err == nil {
		return fmt.Errorf("the container has an interface %s already", to)
	}
	// Only one that is down can be renamed, and the name may be taken on the host: so
	// it moves first, and is renamed there.
	if err := host.LinkSetDown(l); err != nil {
		return err
	}
	if err := host.LinkSetNsFd(l, int(ns)); err != nil {
		return err
	}
	moved, err := in.LinkByName(name)
	if err != nil {
		return err
	}
	if to != name {
		if err := in.LinkSetName(moved, to); err != nil {
			return fmt.Errorf("name it %s: %w", to, err)
		}
	}
	for _, a := range addresses {
		if a.Scope != unix.RT_SCOPE_UNIVERSE || a.Flags&unix.IFA_F_PERMANENT == 0 {
			continue
		}
		a := netlink.Addr{IPNet: a.IPNet}
		if err := in.AddrAdd(moved, &a); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("give it %s again: %w", a.IPNet, err)
		}
	}
	return in.LinkSetUp(moved)
}
