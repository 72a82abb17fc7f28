package launch

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/images"
	"github.com/powerd/powerd/containers/network"
	"github.com/powerd/powerd/containers/oci"
)

// A Request is what a person wants to run. Only Image is required.
type Request struct {
	Image    string // what images.Store.Get takes
	Platform string
	Pull     images.Policy
	InPlace  bool // write to the folder that is the image

	Name       string // "": made from the image's
	Args       []string
	Entrypoint *string // instead of the image's; "" for none
	Env        []string
	Cwd        string
	User       string
	Hostname   string

	Terminal, Detach, Remove, Init bool
	// Size, if not nil, is the terminal's to begin with.
	Size *specs.Box

	ReadOnly bool
	Volumes  []string // SOURCE:DESTINATION[:OPTIONS]
	Tmpfs    []string // DESTINATION[:OPTIONS]
	Devices  []string // a device of the host's: /dev/fuse

	Network string // None, Host or Bridge
	Publish []network.Port
	DNS     []netip.Addr // instead of the host's resolvers

	CPUs              float64 // of cpu time; 0 for no limit
	CPUSet            string
	CPUWeight         uint64 // 1 to 10000
	Memory, PidsLimit int64  // 0 for the default, -1 for no limit

	// UserNS, if not nil, maps the container's ids from 0 to the host's.
	UserNS          *specs.LinuxIDMapping
	CapAdd, CapDrop []string
	NewPrivileges   bool // let set-uid programs gain them
	// Seccomp, if not nil, makes the filter of the rest of the config.
	Seccomp          func(*specs.Spec) (*specs.LinuxSeccomp, error)
	ApparmorProfile  string
	Ulimits, Sysctls []string // NAME=SOFT[:HARD], NAME=VALUE
	Annotations      map[string]string
}

// Networks that a container can be on.
const (
	None   = "none"   // its own lo
	Host   = "host"   // the host's interfaces
	Bridge = "bridge" // an eth0 of its own
)

// defaultPids bounds what a fork bomb can do.
const defaultPids = 2048

// defaultCaps are what root in a container may by default, as engines have it.
var defaultCaps = []string{"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT"}

func (r *Request) check() error {
	switch {
	case r.Image == "":
		return errors.New("cannot run a container: no image is given")
	case r.Network != None && r.Network != Host && r.Network != Bridge:
		return fmt.Errorf("cannot use network %q: want none, host or bridge", r.Network)
	case len(r.Publish) > 0 && r.Network != Bridge:
		return fmt.Errorf("cannot publish port %s: the network is %s, not bridge", r.Publish[0], r.Network)
	case r.CPUs < 0:
		return fmt.Errorf("cannot limit to %v cpus: want a number above 0", r.CPUs)
	case r.CPUWeight > 10000:
		return fmt.Errorf("cannot use cpu weight %d: want 1 to 10000", r.CPUWeight)
	}
	return nil
}

func (r *Request) idMap() images.IDMap {
	if r.UserNS == nil {
		return images.IDMap{}
	}
	m := []specs.LinuxIDMapping{*r.UserNS}
	return images.IDMap{UIDs: m, GIDs: m}
}

// Capabilities gives the set that a container gets: the default, and what is added
// and taken away. Names may lack CAP_; ALL is all.
func Capabilities(add, drop []string) ([]string, error) {
	name := func(s string) string {
		if s = strings.ToUpper(s); s != "ALL" && !strings.HasPrefix(s, "CAP_") {
			s = "CAP_" + s
		}
		return s
	}
	caps := slices.Clone(defaultCaps)
	for i, c := range drop {
		switch c = name(c); {
		case c == "ALL":
			caps = nil
		case !oci.IsCapability(c):
			return nil, fmt.Errorf("cannot drop %s: there is no such capability", drop[i])
		default:
			caps = slices.DeleteFunc(caps, func(have string) bool { return have == c })
		}
	}
	for i, c := range add {
		switch c = name(c); {
		case c == "ALL":
			caps = oci.Capabilities()
		case !oci.IsCapability(c):
			return nil, fmt.Errorf("cannot add %s: there is no such capability", add[i])
		case !slices.Contains(caps, c):
			caps = append(caps, c)
		}
	}
	slices.Sort(caps)
	return caps, nil
}

// spec is the config of a container.
func (r *Request) spec(store *images.Store, img *images.Image, root *images.Root) (*specs.Spec, error) {
	s := oci.DefaultSpec()
	s.Root = &specs.Root{Readonly: r.ReadOnly}
	s.Hostname = cmp.Or(r.Hostname, r.Name[:min(len(r.Name), 64)])
	s.Annotations = r.Annotations
	caps, err := Capabilities(r.CapAdd, r.CapDrop)
	if err != nil {
		return nil, err
	}
	p := s.Process
	p.Terminal, p.NoNewPrivileges, p.ApparmorProfile = r.Terminal, !r.NewPrivileges, r.ApparmorProfile
	if r.Terminal {
		p.ConsoleSize = r.Size
	}
	p.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	user, home, err := store.User(root, cmp.Or(r.User, img.Config.User))
	if err != nil {
		return nil, err
	}
	p.User = user
	if user.UID != 0 { // root's set is a user's bound only
		p.Capabilities.Effective, p.Capabilities.Permitted = nil, nil
	}
	entry := img.Config.Entrypoint
	if r.Entrypoint != nil {
		entry = nil
		if *r.Entrypoint != "" {
			entry = []string{*r.Entrypoint}
		}
	}
	p.Args = append(slices.Clone(entry), r.Args...)
	if len(r.Args) == 0 && r.Entrypoint == nil {
		p.Args = append(p.Args, img.Config.Cmd...)
	}
	if len(p.Args) == 0 {
		return nil, fmt.Errorf("cannot run %s: it says no command; give one", img.Ref)
	}
	p.Cwd = cmp.Or(r.Cwd, img.Config.WorkingDir, "/")
	p.Env = environment(img.Config.Env, []string{"HOME=" + home, "HOSTNAME=" + s.Hostname}, r.Env, r.Terminal)
	if p.Rlimits, err = ulimits(r.Ulimits); err != nil {
		return nil, err
	}
	for _, kv := range r.Sysctls {
		key, value, ok := strings.Cut(kv, "=")
		if !ok {
			return nil, fmt.Errorf("cannot set sysctl %q: want NAME=VALUE", kv)
		}
		if s.Linux.Sysctl == nil {
			s.Linux.Sysctl = map[string]string{}
		}
		s.Linux.Sysctl[key] = value
	}
	if r.Seccomp != nil {
		if s.Linux.Seccomp, err = r.Seccomp(s); err != nil {
			return nil, err
		}
	}
	if s.Linux.Resources, err = r.limits(); err != nil {
		return nil, err
	}
	s.Linux.CgroupsPath = "/powerd/" + r.Name
	if r.UserNS != nil {
		m := []specs.LinuxIDMapping{*r.UserNS}
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings, s.Linux.GIDMappings = m, m
	}
	if r.Network == Host {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
		if r.UserNS != nil { // who does not own the network namespace may not mount sysfs
			for i := range s.Mounts {
				if m := &s.Mounts[i]; m.Destination == "/sys" {
					m.Type, m.Source, m.Options = "bind", "/sys", []string{"rbind", "nosuid", "noexec", "nodev", "rro"}
				}
			}
		}
	}
	for _, v := range root.Volumes {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: v.Destination, Source: v.Source, Type: "bind", Options: []string{"rbind", "nodev"}})
	}
	for _, v := range r.Volumes {
		m, err := volume(v)
		if err != nil {
			return nil, err
		}
		s.Mounts = append(s.Mounts, m)
	}
	for _, v := range r.Tmpfs {
		dst, options, _ := strings.Cut(v, ":")
		if !path.IsAbs(dst) {
			return nil, fmt.Errorf("cannot mount a tmpfs on %q: want an absolute path", dst)
		}
		m := specs.Mount{Destination: dst, Source: "tmpfs", Type: "tmpfs", Options: []string{"nosuid", "nodev", "tmpcopyup"}}
		if options != "" {
			m.Options = append(m.Options, strings.Split(options, ",")...)
		}
		s.Mounts = append(s.Mounts, m)
	}
	for _, d := range r.Devices {
		if err := addDevice(s, d); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// environment puts lists of NAME=VALUE together; later ones win. A name without a value
// takes ours.
func environment(image, own, wanted []string, terminal bool) []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if terminal {
		env = append(env, "TERM="+cmp.Or(os.Getenv("TERM"), "xterm"))
	}
	at := map[string]int{}
	for i, v := range env {
		name, _, _ := strings.Cut(v, "=")
		at[name] = i
	}
	for _, list := range [][]string{own, image, wanted} {
		for _, v := range list {
			name, _, ok := strings.Cut(v, "=")
			if !ok {
				value, set := os.LookupEnv(name)
				if !set {
					continue
				}
				v = name + "=" + value
			}
			if i, ok := at[name]; ok {
				env[i] = v
			} else {
				at[name] = len(env)
				env = append(env, v)
			}
		}
	}
	return env
}

func ulimits(list []string) (out []specs.POSIXRlimit, err error) {
	for _, u := range list {
		name, value, ok := strings.Cut(u, "=")
		soft, hard, both := strings.Cut(value, ":")
		if !both {
			hard = soft
		}
		var v [2]uint64
		for i, s := range []string{soft, hard} {
			if s == "-1" || s == "unlimited" {
				v[i] = ^uint64(0)
			} else if v[i], err = strconv.ParseUint(s, 10, 64); err != nil {
				ok = false
			}
		}
		if !ok {
			return nil, fmt.Errorf("cannot set ulimit %q: want NAME=SOFT[:HARD], such as nofile=1024:4096", u)
		}
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name), Soft: v[0], Hard: v[1]})
	}
	return out, nil
}

func (r *Request) limits() (*specs.LinuxResources, error) {
	l := &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: r.CPUSet}, Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	if r.CPUs > 0 {
		const period = 100000
		p, quota := uint64(period), int64(r.CPUs*period)
		if quota < 1000 {
			return nil, fmt.Errorf("cannot limit to %v cpus: the kernel takes 0.01 at least", r.CPUs)
		}
		l.CPU.Period, l.CPU.Quota = &p, &quota
	}
	if r.CPUWeight > 0 {
		l.Unified = map[string]string{"cpu.weight": strconv.FormatUint(r.CPUWeight, 10)}
	}
	if r.Memory != 0 {
		l.Memory = &specs.LinuxMemory{Limit: &r.Memory}
	}
	pids := cmp.Or(r.PidsLimit, defaultPids)
	l.Pids = &specs.LinuxPids{Limit: &pids}
	return l, nil
}

// volume reads SOURCE:DESTINATION[:OPTIONS], options as in config.json and comma-separated.
func volume(s string) (specs.Mount, error) {
	parts := strings.Split(s, ":")
	if len(parts) < 2 || len(parts) > 3 || !path.IsAbs(parts[1]) || parts[0] == "" {
		return specs.Mount{}, fmt.Errorf("cannot use volume %q: want SOURCE:DESTINATION[:OPTIONS], with an absolute destination", s)
	}
	source, err := filepath.Abs(parts[0])
	if err == nil {
		_, err = os.Stat(source)
	}
	if err != nil {
		return specs.Mount{}, fmt.Errorf("cannot use volume %q: %v", s, err)
	}
	m := specs.Mount{Source: source, Destination: parts[1], Type: "bind", Options: []string{"rbind", "rprivate"}}
	if len(parts) == 3 {
		m.Options = append(m.Options, strings.Split(parts[2], ",")...)
	}
	return m, nil
}

// addDevice gives a container a device of the host's under its own name.
func addDevice(s *specs.Spec, name string) error {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return fmt.Errorf("cannot use device %s: %w", name, err)
	}
	kind := map[uint32]string{unix.S_IFCHR: "c", unix.S_IFBLK: "b"}[st.Mode&unix.S_IFMT]
	if kind == "" {
		return fmt.Errorf("cannot use device %s: it is none", name)
	}
	major, minor, mode := int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev)), os.FileMode(st.Mode&0o777)
	s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: name, Type: kind, Major: major, Minor: minor, FileMode: &mode, UID: &st.Uid, GID: &st.Gid})
	s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Minor: &minor, Access: "rwm"})
	return nil
}

// files are those that every container gets of its own in /etc.
func (r *Request) files(dir string, s *specs.Spec) error {
	hosts := "127.0.0.1 localhost " + s.Hostname + "\n::1 localhost ip6-localhost ip6-loopback\n"
	list := map[string]string{"hostname": s.Hostname + "\n", "hosts": hosts}
	if resolv, err := os.ReadFile("/etc/resolv.conf"); r.Network == Bridge && (err == nil || errors.Is(err, fs.ErrNotExist)) {
		list["resolv.conf"] = network.Resolv(string(resolv), r.DNS)
	}
	if r.Network == Host {
		for _, name := range []string{"hosts", "resolv.conf"} {
			if data, err := os.ReadFile("/etc/" + name); err == nil {
				list[name] = string(data)
			}
		}
	}
	for name, text := range list {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return fmt.Errorf("cannot write the container's %s: %v", name, err)
		}
		if r.UserNS != nil {
			if err := os.Chown(file, int(r.UserNS.HostID), int(r.UserNS.HostID)); err != nil {
				return fmt.Errorf("cannot write the container's %s: %v", name, err)
			}
		}
		if dst := "/etc/" + name; !slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return path.Clean(m.Destination) == dst }) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: dst, Source: file, Type: "bind", Options: []string{"bind", "nosuid", "nodev", "noexec"}})
		}
	}
	return nil
}
