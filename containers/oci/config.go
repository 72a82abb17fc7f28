package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"reflect"
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
	return Parse(data)
}

// Parse reads the content of config.json and checks it.
//
// See https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config.md.
func Parse(data []byte) (*specs.Spec, error) {
	var s specs.Spec
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&s); err != nil {
		var te *json.UnmarshalTypeError
		if errors.As(err, &te) {
			return nil, field(te.Field, "it is a %s", te.Value)
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
	case len(s.Process.Args) == 0:
		return field("process.args", "it is required")
	case !path.IsAbs(s.Process.Cwd):
		return field("process.cwd", "want an absolute path, not %q", s.Process.Cwd)
	}
	for _, refuse := range []struct {
		there bool
		name  string
	}{
		{s.Process.Terminal, "process.terminal"},
		{s.Process.ApparmorProfile != "", "process.apparmorProfile"},
		{s.Process.SelinuxLabel != "", "process.selinuxLabel"},
		{s.Process.Scheduler != nil, "process.scheduler"},
		{s.Process.IOPriority != nil, "process.ioPriority"},
		{s.Process.ExecCPUAffinity != nil, "process.execCPUAffinity"},
		{s.Linux.Seccomp != nil, "linux.seccomp"},
		{s.Linux.MountLabel != "", "linux.mountLabel"},
		{s.Linux.IntelRdt != nil, "linux.intelRdt"},
		{s.Linux.Personality != nil, "linux.personality"},
		{len(s.Linux.TimeOffsets) > 0, "linux.timeOffsets"},
		{len(s.Linux.NetDevices) > 0, "linux.netDevices"},
		{len(s.Linux.Devices) > 0, "linux.devices"},
		{s.Hooks != nil && !reflect.DeepEqual(*s.Hooks, specs.Hooks{}), "hooks"},
	} {
		if refuse.there {
			return field(refuse.name, "not supported yet")
		}
	}
	if p := s.Linux.CgroupsPath; strings.Contains(p, ":") || strings.IndexByte(p, 0) >= 0 || p != "" && path.Clean("/"+p) == "/" {
		return field("linux.cgroupsPath", "want the path of a cgroup of its own, not %q", p)
	}
	if err := checkNamespaces(s); err != nil {
		return err
	}
	for _, v := range s.Process.Env {
		if !strings.Contains(v, "=") {
			return field("process.env", "want NAME=VALUE, not %q", v)
		}
	}
	for i, r := range s.Process.Rlimits {
		name := fmt.Sprintf("process.rlimits[%d]", i)
		if _, ok := rlimits[r.Type]; !ok {
			return field(name+".type", "there is no limit %q", r.Type)
		}
		if r.Soft > r.Hard {
			return field(name, "soft %d is above hard %d", r.Soft, r.Hard)
		}
	}
	for name, list := range capabilityLists(s) {
		for _, c := range list {
			if _, ok := capabilities[c]; !ok {
				return field("process.capabilities."+name, "there is no capability %q", c)
			}
		}
	}
	for i, m := range s.Mounts {
		name := fmt.Sprintf("mounts[%d]", i)
		switch {
		case m.Destination == "" || strings.IndexByte(m.Destination, 0) >= 0 || path.Clean("/"+m.Destination) == "/":
			return field(name+".destination", "want a path inside the root, not %q", m.Destination)
		case len(m.UIDMappings)+len(m.GIDMappings) > 0:
			return field(name+".uidMappings", "not supported yet")
		}
		if _, err := parseMountOptions(m.Options); err != nil {
			return field(name+".options", "%v", err)
		}
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
		if ns.Type == specs.TimeNamespace || ns.Path != "" && (ns.Type == specs.PIDNamespace || ns.Type == specs.UserNamespace || ns.Type == specs.MountNamespace) {
			return field(name, "not supported yet")
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
	if seen[specs.UserNamespace] && (len(s.Linux.UIDMappings) == 0 || len(s.Linux.GIDMappings) == 0) {
		return field("linux.uidMappings", "a new user namespace needs uid and gid mappings")
	}
	return nil
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

func capabilityLists(s *specs.Spec) map[string][]string {
	c := s.Process.Capabilities
	if c == nil { // none are given
		c = &specs.LinuxCapabilities{}
	}
	return map[string][]string{"bounding": c.Bounding, "effective": c.Effective, "permitted": c.Permitted, "inheritable": c.Inheritable, "ambient": c.Ambient}
}
