package oci

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A FieldError is a field of config.json that cannot be used, and why.
type FieldError struct{ Field, Why string }

func (e *FieldError) Error() string {
	return fmt.Sprintf("cannot use config.json: %s: %s", e.Field, e.Why)
}

func field(name, format string, args ...any) error {
	return &FieldError{name, fmt.Sprintf(format, args...)}
}

// maxConfig bounds config.json, in bytes.
const maxConfig = 8 << 20

// Load reads a bundle's config.json and checks it.
func Load(bundle string) (*specs.Spec, error) {
	data, err := read(bundle)
	if err != nil {
		return nil, err
	}
	return Parse(data)
}

// read reads a bundle's config.json.
func read(bundle string) ([]byte, error) {
	name := filepath.Join(bundle, "config.json")
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read bundle: %w", err)
	}
	if info.Size() > maxConfig {
		return nil, fmt.Errorf("cannot read bundle: %s has %d bytes, more than %d", name, info.Size(), maxConfig)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read bundle: %w", err)
	}
	return data, nil
}

// Parse reads the content of config.json and checks it.
//
// See https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config.md.
func Parse(data []byte) (*specs.Spec, error) {
	var s specs.Spec
	if err := decode(data, &s); err != nil {
		if errors.As(err, new(*FieldError)) {
			return nil, err
		}
		return nil, fmt.Errorf("cannot use config.json: %v", err)
	}
	if err := check(&s); err != nil {
		return nil, err
	}
	return &s, nil
}

// check refuses what is wrong, and what this runtime cannot do yet.
func check(s *specs.Spec) error {
	if v := s.Version; v != "1.0.0" && !strings.HasPrefix(v, "1.") {
		return field("ociVersion", "want 1.0.0 to 1.3.x, not %q", v)
	}
	switch {
	case s.Root == nil || s.Root.Path == "":
		return field("root.path", "it is required")
	case s.Linux == nil:
		return field("linux", "it is required")
	case s.Process == nil:
		return field("process", "it is required")
	}
	for _, refuse := range []struct {
		there bool
		name  string
		why   string
	}{
		{len(s.Linux.NetDevices) > 0 && !owns(s, specs.NetworkNamespace), "linux.netDevices", "they need a network namespace of the container's own"},
		{s.Process.ApparmorProfile != "" && !enabled("/sys/module/apparmor/parameters/enabled"), "process.apparmorProfile", "AppArmor is not enabled on this host"},
		{s.Process.SelinuxLabel != "" && !exists("/sys/fs/selinux/enforce"), "process.selinuxLabel", "SELinux is not enabled on this host"},
		{s.Linux.MountLabel != "" && !exists("/sys/fs/selinux/enforce"), "linux.mountLabel", "SELinux is not enabled on this host"},
		{len(s.Linux.TimeOffsets) > 0 && !owns(s, specs.TimeNamespace), "linux.timeOffsets", "they need a time namespace of the container's own"},
	} {
		if refuse.there {
			return field(refuse.name, "%s", refuse.why)
		}
	}
	for clock, o := range s.Linux.TimeOffsets {
		if clock != "monotonic" && clock != "boottime" || o.Nanosecs >= 1e9 {
			return field("linux.timeOffsets", "want offsets of monotonic and boottime in secs and nanosecs below a second, not of %q", clock)
		}
	}
	if p := s.Linux.Personality; p != nil {
		if _, ok := personalities[p.Domain]; !ok || len(p.Flags) > 0 {
			return field("linux.personality", "want LINUX or LINUX32 without flags, not %q", p.Domain)
		}
	}
	if p := s.Linux.RootfsPropagation; p != "" && propagations[strings.TrimPrefix(p, "r")] == 0 {
		return field("linux.rootfsPropagation", "there is no propagation %q", p)
	}
	if err := checkProcess(s.Process, "process"); err != nil {
		return err
	}
	if err := checkMemoryPolicy(s.Linux.MemoryPolicy); err != nil {
		return err
	}
	if err := checkRdt(s.Linux.IntelRdt); err != nil {
		return err
	}
	if err := checkHooks(s.Hooks); err != nil {
		return err
	}
	if p := s.Linux.CgroupsPath; strings.IndexByte(p, 0) >= 0 || p != "" && path.Clean("/"+p) == "/" {
		return field("linux.cgroupsPath", "want the path of a cgroup of its own, not %q", p)
	}
	if err := checkNamespaces(s); err != nil {
		return err
	}
	for i, m := range s.Mounts {
		name := fmt.Sprintf("mounts[%d]", i)
		switch {
		case m.Destination == "" || strings.IndexByte(m.Destination, 0) >= 0 || path.Clean("/"+m.Destination) == "/":
			return field(name+".destination", "want a path inside the root, not %q", m.Destination)
		case (len(m.UIDMappings) > 0) != (len(m.GIDMappings) > 0):
			return field(name+".uidMappings", "want both uidMappings and gidMappings")
		}
		if _, err := parseMountOptions(m.Options); err != nil {
			return field(name+".options", "%v", err)
		}
	}
	if err := CheckAnnotations(s.Annotations); err != nil {
		return err
	}
	for key := range s.Linux.Sysctl {
		if strings.Contains(key, "..") || strings.HasPrefix(key, "/") {
			return field("linux.sysctl", "%q is no name of a sysctl", key)
		}
		if !sysctlNamespaced(key, s) {
			return field("linux.sysctl", "%s is not of a namespace of the container's own", key)
		}
	}
	for _, p := range append(append([]string{}, s.Linux.MaskedPaths...), s.Linux.ReadonlyPaths...) {
		if !path.IsAbs(p) || strings.IndexByte(p, 0) >= 0 {
			return field("linux.maskedPaths", "want absolute paths, not %q", p)
		}
	}
	return nil
}

// checkProcess checks what config.json, or exec's process.json, says of a process.
func checkProcess(p *specs.Process, at string) error {
	switch {
	case len(p.Args) == 0 || p.Args[0] == "":
		return field(at+".args", "it is required")
	case !path.IsAbs(p.Cwd) || strings.IndexByte(p.Cwd, 0) >= 0:
		return field(at+".cwd", "want an absolute path, not %q", p.Cwd)
	}
	for i, a := range p.Args {
		if strings.IndexByte(a, 0) >= 0 {
			return field(fmt.Sprintf("%s.args[%d]", at, i), "it holds a NUL")
		}
	}
	for _, v := range p.Env {
		if !strings.Contains(v, "=") {
			return field(at+".env", "want NAME=VALUE, not %q", v)
		}
	}
	for i, r := range p.Rlimits {
		name := fmt.Sprintf(at+".rlimits[%d]", i)
		if _, ok := rlimits[r.Type]; !ok {
			return field(name+".type", "there is no limit %q", r.Type)
		}
		if r.Soft > r.Hard {
			return field(name, "soft %d is above hard %d", r.Soft, r.Hard)
		}
	}
	if s := p.Scheduler; s != nil {
		if _, ok := schedPolicies[s.Policy]; !ok {
			return field(at+".scheduler.policy", "there is no policy %q", s.Policy)
		}
		for _, f := range s.Flags {
			if _, ok := schedFlags[f]; !ok {
				return field(at+".scheduler.flags", "there is no flag %q", f)
			}
		}
		if s.Nice < -20 || s.Nice > 19 || s.Priority < 0 || s.Priority > 99 {
			return field(at+".scheduler", "want a nice value of -20 to 19 and a priority of 0 to 99")
		}
	}
	if io := p.IOPriority; io != nil {
		if _, ok := ioClasses[io.Class]; !ok || io.Priority < 0 || io.Priority > 7 {
			return field(at+".ioPriority", "want a class IOPRIO_CLASS_RT, _BE or _IDLE and a priority of 0 to 7")
		}
	}
	if err := checkAffinity(p.ExecCPUAffinity, at+".execCPUAffinity"); err != nil {
		return err
	}
	if o := p.OOMScoreAdj; o != nil && (*o < -1000 || *o > 1000) {
		return field(at+".oomScoreAdj", "want -1000 to 1000, not %d", *o)
	}
	if c := p.ConsoleSize; c != nil && (c.Height > 0xffff || c.Width > 0xffff) {
		return field(at+".consoleSize", "want at most 65535 rows and columns")
	}
	return nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func checkNamespaces(s *specs.Spec) error {
	seen := map[specs.LinuxNamespaceType]bool{}
	for i, ns := range s.Linux.Namespaces {
		name := fmt.Sprintf("linux.namespaces[%d]", i)
		if _, ok := cloneFlags[ns.Type]; !ok {
			return field(name+".type", "there is no namespace %q", ns.Type)
		}
		if seen[ns.Type] {
			return field(name+".type", "%q is there twice", ns.Type)
		}
		seen[ns.Type] = true
		if ns.Path != "" && !path.IsAbs(ns.Path) {
			return field(name+".path", "want an absolute path, not %q", ns.Path)
		}
	}
	if !seen[specs.MountNamespace] {
		return field("linux.namespaces", "a mount namespace is required: a root is made by pivot_root only")
	}
	if s.Hostname != "" && !seen[specs.UTSNamespace] {
		return field("hostname", "it needs a uts namespace of the container's own")
	}
	if len(s.Linux.UIDMappings)+len(s.Linux.GIDMappings) > 0 && !seen[specs.UserNamespace] {
		return field("linux.uidMappings", "they need a user namespace")
	}
	if owns(s, specs.UserNamespace) && (len(s.Linux.UIDMappings) == 0 || len(s.Linux.GIDMappings) == 0) {
		return field("linux.uidMappings", "a new user namespace needs uid and gid mappings")
	}
	return nil
}

// has reports whether a namespace is the container's own, or joined.
func has(s *specs.Spec, t specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == t })
}

// owns reports whether the container gets a namespace of its own.
func owns(s *specs.Spec, t specs.LinuxNamespaceType) bool {
	for _, ns := range s.Linux.Namespaces {
		if ns.Type == t {
			return ns.Path == ""
		}
	}
	return false
}

func sysctlNamespaced(key string, s *specs.Spec) bool {
	dotted := strings.ReplaceAll(key, "/", ".")
	switch {
	case strings.HasPrefix(dotted, "net."):
		return owns(s, specs.NetworkNamespace)
	case strings.HasPrefix(dotted, "fs.mqueue."), strings.HasPrefix(dotted, "kernel.sem"), strings.HasPrefix(dotted, "kernel.shm"), strings.HasPrefix(dotted, "kernel.msg"):
		return owns(s, specs.IPCNamespace)
	case dotted == "kernel.domainname":
		return owns(s, specs.UTSNamespace)
	}
	return false
}

var cloneFlags = map[specs.LinuxNamespaceType]uintptr{
	specs.PIDNamespace: unix.CLONE_NEWPID, specs.NetworkNamespace: unix.CLONE_NEWNET, specs.MountNamespace: unix.CLONE_NEWNS,
	specs.IPCNamespace: unix.CLONE_NEWIPC, specs.UTSNamespace: unix.CLONE_NEWUTS, specs.UserNamespace: unix.CLONE_NEWUSER,
	specs.CgroupNamespace: unix.CLONE_NEWCGROUP, specs.TimeNamespace: unix.CLONE_NEWTIME,
}

var rlimits = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE,
	"RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

// capabilities by name; the numbers are the kernel's (linux/capability.h).
var capabilities = func() map[string]uint {
	names := strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
		NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE
		SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM
		BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)
	out := make(map[string]uint, len(names))
	for i, n := range names {
		out["CAP_"+n] = uint(i)
	}
	return out
}()

// IsCapability tells whether there is a capability of that name.
func IsCapability(name string) bool {
	_, ok := capabilities[name]
	return ok
}

// Capabilities are the names of all.
func Capabilities() []string { return slices.Sorted(maps.Keys(capabilities)) }

// warn tells of capabilities that there are not, which are left out.
//
// See https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config.md#linux-process.
func (e *Engine) warn(id string, p *specs.Process) {
	unknown := map[string]bool{}
	for _, list := range capabilityLists(p) {
		for _, c := range list {
			if !IsCapability(c) {
				unknown[c] = true
			}
		}
	}
	for _, c := range slices.Sorted(maps.Keys(unknown)) {
		if e.Warn != nil {
			e.Warn(fmt.Sprintf("container %s goes without %q: there is no such capability", id, c))
		}
	}
}

func capabilityLists(p *specs.Process) map[string][]string {
	c := p.Capabilities
	if c == nil { // none are given
		c = &specs.LinuxCapabilities{}
	}
	return map[string][]string{"bounding": c.Bounding, "effective": c.Effective, "permitted": c.Permitted, "inheritable": c.Inheritable, "ambient": c.Ambient}
}
