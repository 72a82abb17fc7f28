package network

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// A Port of a container that the host publishes.
type Port struct {
	// HostIP is the host's address; the zero one is all.
	HostIP    netip.Addr `json:"host_ip,omitzero"`
	Host      uint16     `json:"host_port"`
	Container uint16     `json:"container_port"`
	Protocol  string     `json:"protocol"` // tcp or udp
}

func (p Port) String() string {
	ip := "0.0.0.0"
	if p.HostIP.IsValid() {
		ip = p.HostIP.String()
	}
	return fmt.Sprintf("%s:%d->%d/%s", ip, p.Host, p.Container, p.Protocol)
}

// clash tells whether two ports cannot both be published.
func (p Port) clash(q Port) bool {
	return p.Host == q.Host && p.Protocol == q.Protocol && (!p.HostIP.IsValid() || !q.HostIP.IsValid() || p.HostIP == q.HostIP)
}

// maxRange bounds how many ports one wish may name.
const maxRange = 1024

// ParsePorts reads [[HOSTIP:]HOSTPORT:]PORT[/PROTOCOL], where a port may be a range such
// as 8000-8009, as long on both sides. Without a host's port it is the container's.
func ParsePorts(s string) ([]Port, error) {
	bad := func(why string) ([]Port, error) {
		return nil, fmt.Errorf("cannot publish port %q: %s; want [[HOSTIP:]HOSTPORT:]PORT[/tcp|/udp]", s, why)
	}
	rest, protocol, given := strings.Cut(s, "/")
	if !given {
		protocol = "tcp"
	}
	if protocol != "tcp" && protocol != "udp" {
		return bad("there is no protocol " + strconv.Quote(protocol))
	}
	var ip netip.Addr
	parts := strings.Split(rest, ":")
	if len(parts) == 3 {
		var err error
		if ip, err = netip.ParseAddr(parts[0]); err != nil || !ip.Is4() {
			return bad(strconv.Quote(parts[0]) + " is no IPv4 address")
		}
		if ip.IsUnspecified() {
			ip = netip.Addr{}
		}
		parts = parts[1:]
	}
	if len(parts) > 2 {
		return bad("it has too many parts")
	}
	from, to, err := parseRange(parts[len(parts)-1])
	if err != nil {
		return bad(err.Error())
	}
	host, hostTo, err := parseRange(parts[0])
	if err != nil {
		return bad(err.Error())
	}
	if hostTo-host != to-from {
		return bad("its ranges are not of the same length")
	}
	if to-from >= maxRange {
		return bad(fmt.Sprintf("a range has at most %d ports", maxRange))
	}
	var out []Port
	for i := range to - from + 1 {
		out = append(out, Port{ip, uint16(host + i), uint16(from + i), protocol})
	}
	return out, nil
}

func parseRange(s string) (from, to int, err error) {
	a, b, ranged := strings.Cut(s, "-")
	if !ranged {
		b = a
	}
	f, err := strconv.ParseUint(a, 10, 16)
	t, err2 := strconv.ParseUint(b, 10, 16)
	if err != nil || err2 != nil || f == 0 || t < f {
		return 0, 0, fmt.Errorf("%q is no port or range of ports", s)
	}
	return int(f), int(t), nil
}
