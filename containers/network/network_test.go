package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func TestParsePorts(t *testing.T) {
	for in, want := range map[string]string{
		"80":                      "[0.0.0.0:80->80/tcp]",
		"8080:80":                 "[0.0.0.0:8080->80/tcp]",
		"127.0.0.1:8080:80/udp":   "[127.0.0.1:8080->80/udp]",
		"0.0.0.0:8000-8001:80-81": "[0.0.0.0:8000->80/tcp 0.0.0.0:8001->81/tcp]",
		"":                        `cannot publish port "": "" is no port or range of ports; want [[HOSTIP:]HOSTPORT:]PORT[/tcp|/udp]`,
		"80/sctp":                 `there is no protocol "sctp"`,
		"::1:80:80":               "it has too many parts",
		"x:80:80":                 `"x" is no IPv4 address`,
		"8000-8002:80-81":         "its ranges are not of the same length",
		"0:80":                    `"0" is no port or range of ports`,
		"70000:80":                `"70000" is no port or range of ports`,
		"1-65535":                 "a range has at most 1024 ports",
		"1:2:3:4":                 "it has too many parts",
	} {
		ports, err := ParsePorts(in)
		got := fmt.Sprint(ports)
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.Contains(got, want)) {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func FuzzParsePorts(f *testing.F) {
	for _, s := range []string{"80", "1.2.3.4:8000-8001:80-81/udp", "::", "/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ports, err := ParsePorts(s)
		if (err == nil) != (len(ports) > 0) || err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, %v", s, ports, err)
		}
	})
}

func TestResolv(t *testing.T) {
	host := "# made\nsearch a.example\nnameserver 127.0.0.53\nnameserver 192.0.2.1\n"
	if got, want := Resolv(host, nil), "# made\nsearch a.example\nnameserver 192.0.2.1\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := Resolv(host, []netip.Addr{netip.MustParseAddr("192.0.2.9")}), "# made\nsearch a.example\nnameserver 192.0.2.9\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := Resolv("nameserver\nnameserver ::1", nil); !strings.Contains(got, "--dns") || strings.Contains(got, "nameserver") {
		t.Errorf("%q", got)
	}
}

// must fails a test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A box is a process with a network namespace of its own, which ends with the test.
func box(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() }) //nolint:errcheck // it has ended
	return cmd.Process.Pid
}

// within runs f in the network namespace of a process, on a thread that ends with it.
func within(t *testing.T, pid int, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		ns, err := netns.GetFromPid(pid)
		if err == nil {
			err = netns.Set(ns)
			ns.Close()
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	must(t, <-done)
}

// host puts the test's thread into a namespace that plays the host, with a way to an
// outside, in another.
func host(t *testing.T) (outside int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	outside = box(t)
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	must(t, unix.Unshare(unix.CLONE_NEWNET))
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: "up0"})
	veth.PeerName, veth.PeerNamespace = "out0", netlink.NsPid(outside)
	must(t, netlink.LinkAdd(veth))
	address := func(name, ip string) error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(ip)
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(l, a), netlink.LinkSetUp(l))
	}
	must(t, address("up0", "192.0.2.1/24"))
	within(t, outside, func() error { return address("out0", "192.0.2.2/24") })
	return outside
}

// serve answers connections in a process' namespace with who they seem to come from.
func serve(t *testing.T, pid int, at string) {
	t.Helper()
	within(t, pid, func() error {
		l, err := net.Listen("tcp4", at)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				from, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				io.WriteString(c, from) //nolint:errcheck // the client tells
				c.Close()
			}
		}()
		return nil
	})
}

func dial(at string) (string, error) {
	c, err := net.DialTimeout("tcp4", at, 3*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(3 * time.Second)) //nolint:errcheck // then it hangs
	data, err := io.ReadAll(c)
	return string(data), err
}

func network(t *testing.T) *Network {
	return &Network{Dir: filepath.Join(t.TempDir(), "net"), Bridge: "pd-test0", Subnet: netip.MustParsePrefix("10.188.0.0/20")}
}

// left tells what there is of a network: cables, leases, rules.
func left(t *testing.T, n *Network) string {
	t.Helper()
	var out []string
	links, err := netlink.LinkList()
	must(t, err)
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "pd") && !strings.HasPrefix(l.Attrs().Name, "pd-test") {
			out = append(out, l.Attrs().Name)
		}
	}
	leases, err := n.Leases()
	must(t, err)
	for _, l := range leases {
		out = append(out, l.Container)
	}
	c, err := nftables.New()
	must(t, err)
	tables, err := c.ListTables()
	must(t, err)
	for _, table := range tables {
		out = append(out, "table "+table.Name)
	}
	return strings.Join(out, " ")
}

func TestAttach(t *testing.T) {
	outside := host(t)
	n := network(t)
	a, b := box(t), box(t)
	ports, err := ParsePorts("8080:80")
	must(t, err)
	la, err := n.Attach("a", a, ports)
	must(t, err)
	lb, err := n.Attach("b", b, nil)
	must(t, err)
	if la.Address.String() != "10.188.0.2" || lb.Address.String() != "10.188.0.3" {
		t.Errorf("addresses %s and %s", la.Address, lb.Address)
	}
	serve(t, a, ":80")
	serve(t, outside, ":7")
	ask := func(from, at, want string) error {
		got, err := dial(at)
		if err != nil || got != want {
			return fmt.Errorf("from %s to %s: %q, %v, want %q", from, at, got, err, want)
		}
		return nil
	}
	// Neighbours see one another; elsewhere sees the host.
	within(t, b, func() error { return ask("b", "10.188.0.2:80", "10.188.0.3") })
	within(t, b, func() error { return ask("b", "192.0.2.2:7", "192.0.2.1") })
	// The published port, from everywhere.
	within(t, outside, func() error { return ask("outside", "192.0.2.1:8080", "192.0.2.2") })
	for at, from := range map[string]string{"127.0.0.1:8080": "10.188.0.1", "192.0.2.1:8080": "192.0.2.1", "10.188.0.2:80": "10.188.0.1"} {
		if err := ask("the host", at, from); err != nil {
			t.Error(err)
		}
	}
	within(t, b, func() error { return ask("b", "192.0.2.1:8080", "10.188.0.1") })
	within(t, a, func() error { return ask("a itself", "192.0.2.1:8080", "10.188.0.1") })

	// A port is taken by a container, or by a process.
	c := box(t)
	if _, err := n.Attach("c", c, ports); err == nil || err.Error() != "cannot connect container c: cannot publish port 0.0.0.0:8080->80/tcp: container a publishes it" {
		t.Errorf("%v", err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:9000")
	must(t, err)
	defer l.Close()
	taken, _ := ParsePorts("9000:80")
	if _, err := n.Attach("c", c, taken); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("%v", err)
	}
	// What failed left nothing, so the address is the next one's.
	lc, err := n.Attach("c", c, nil)
	must(t, err)
	if lc.Address.String() != "10.188.0.4" {
		t.Errorf("address %s", lc.Address)
	}
	for _, id := range []string{"a", "b", "c", "never"} {
		must(t, n.Detach(id))
		must(t, n.Detach(id))
	}
	if got := left(t, n); got != "" {
		t.Errorf("left: %s", got)
	}
	within(t, outside, func() error {
		if got, err := dial("192.0.2.1:8080"); err == nil {
			return fmt.Errorf("still published: %q", got)
		}
		return nil
	})
}

// Addresses and cables are each container's own, however many come at once; what a
// crash left goes with the next Detach or Attach.
func TestManyAndCrashes(t *testing.T) {
	host(t)
	n := network(t)
	self, err := netns.Get()
	must(t, err)
	defer self.Close()
	var wg sync.WaitGroup
	var mu sync.Mutex
	addresses := map[string]bool{}
	for i := range 12 {
		pid := box(t)
		wg.Go(func() {
			runtime.LockOSThread() // the thread ends in the test's namespace
			err := netns.Set(self)
			var l *Lease
			if err == nil {
				l, err = n.Attach(fmt.Sprint("m", i), pid, nil)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Errorf("m%d: %v", i, err)
				return
			}
			addresses[l.Address.String()] = true
		})
	}
	wg.Wait()
	if len(addresses) != 12 {
		t.Errorf("%d addresses for 12 containers", len(addresses))
	}
	for i := range 12 {
		must(t, n.Detach(fmt.Sprint("m", i)))
	}
	if got := left(t, n); got != "" {
		t.Fatalf("left: %s", got)
	}
	// Killed after the lease, and after the cable.
	pid := box(t)
	_, err = n.reserve("k", nil)
	must(t, err)
	must(t, n.Detach("k"))
	_, err = n.Attach("k", pid, nil)
	must(t, err)
	l, err := n.Attach("k", box(t), nil) // again, for another process
	must(t, err)
	if l.Address.String() != "10.188.0.2" {
		t.Errorf("address %s", l.Address)
	}
	must(t, n.Detach("k"))
	if got := left(t, n); got != "" {
		t.Errorf("left: %s", got)
	}
	// A subnet that the host reaches in another way is refused.
	n.Bridge, n.Subnet = "pd-test1", netip.MustParsePrefix("192.0.0.0/16")
	if _, err := n.Attach("s", pid, nil); err == nil || !strings.Contains(err.Error(), "192.0.2.0/24, which overlaps the containers' subnet 192.0.0.0/16: choose another with --subnet") {
		t.Errorf("%v", err)
	}
	if got := left(t, n); got != "" {
		t.Errorf("left: %s", got)
	}
}

// An interface moves with its addresses and under its new name.
func TestMoveDevice(t *testing.T) {
	host(t)
	pid := box(t)
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: "dev0"})
	veth.PeerName = "peer0"
	must(t, netlink.LinkAdd(veth))
	l, err := netlink.LinkByName("dev0")
	must(t, err)
	a, err := netlink.ParseAddr("198.51.100.7/24")
	must(t, err)
	must(t, netlink.AddrAdd(l, a))
	must(t, MoveDevice(pid, "dev0", specs.LinuxNetDevice{Name: "net0"}))
	if _, err := netlink.LinkByName("dev0"); err == nil {
		t.Error("it is still on the host")
	}
	within(t, pid, func() error {
		l, err := netlink.LinkByName("net0")
		if err != nil {
			return err
		}
		list, err := netlink.AddrList(l, netlink.FAMILY_V4)
		if err != nil || len(list) != 1 || list[0].IPNet.String() != "198.51.100.7/24" || l.Attrs().Flags&net.FlagUp == 0 {
			return fmt.Errorf("%v, %v, %v", list, l.Attrs().Flags, err)
		}
		return nil
	})
	if err := MoveDevice(pid, "nonesuch", specs.LinuxNetDevice{}); err == nil || !strings.Contains(err.Error(), "cannot move interface nonesuch into the container") {
		t.Errorf("%v", err)
	}
}
