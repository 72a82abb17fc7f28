package group

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A FieldError is a field of config.json that cannot be used, and why.
type FieldError struct {
	Field string
	Err   error
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }
func (e *FieldError) Unwrap() error { return e.Err }

func field(name, format string, args ...any) error {
	return &FieldError{name, fmt.Errorf(format, args...)}
}

// A Manager says how cgroups are made.
type Manager struct {
	// Systemd makes scopes through systemd instead of folders.
	Systemd bool
	// Rootless is for a user other than root: the user's own systemd, cgroups
	// beside the caller's, and no device rules, which only root may set.
	Rootless bool
	// Root is where the cgroup2 file system is; "" is /sys/fs/cgroup.
	Root string
}

// A Ref tells which cgroup is a container's. It is plain JSON.
type Ref struct {
	// Root is where the cgroup2 file system is.
	Root string `json:"root"`
	// Path is the cgroup below Root, e.g. /powerd-oci/c1.
	Path string `json:"path"`
	// Own is a folder above that goes with its last container.
	Own string `json:"own,omitempty"`
	// Slice and Unit are systemd's names, if it made the cgroup.
	Slice string `json:"slice,omitempty"`
	Unit  string `json:"unit,omitempty"`
	// Rootless says that a user's systemd did, and that devices are not controlled.
	Rootless bool `json:"rootless,omitempty"`
	// Inode is the cgroup's, 0 before it is made. The kernel gives none twice.
	Inode uint64 `json:"inode,omitempty"`
}

// ownGroup holds the cgroups of containers whose path is not absolute.
const ownGroup = "powerd-oci"

// Folder is the cgroup's folder in the file system.
func (r Ref) Folder() string { return filepath.Join(r.Root, r.Path) }

func (r Ref) file(name string) string { return filepath.Join(r.Root, r.Path, name) }

// Path resolves linux.cgroupsPath. Without systemd an absolute path is from the
// root of the hierarchy, another is below /powerd-oci (rootless: beside the caller's
// cgroup), and none is the container's id there. With systemd it is
// "slice:prefix:name", the scope prefix-name.scope in the slice. Nothing is made.
func (m Manager) Path(ctx context.Context, cgroupsPath, id string) (Ref, error) {
	r := Ref{Root: m.Root, Rootless: m.Rootless}
	if r.Root == "" {
		r.Root = "/sys/fs/cgroup"
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(r.Root, &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return r, fmt.Errorf("cannot make a cgroup: %s is no cgroup v2 hierarchy; boot with systemd.unified_cgroup_hierarchy=1, or run without limits by --cgroup-manager=none", r.Root)
	}
	above := ""
	switch {
	case m.Systemd && m.Rootless:
		c, err := connect(ctx, true)
		if err != nil {
			return r, err
		}
		defer c.Close()
		if above, err = c.controlGroup(); err != nil {
			return r, err
		}
	case m.Rootless:
		data, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			return r, fmt.Errorf("cannot find the caller's cgroup: %w", err)
		}
		own, err := parseOwn(string(data))
		if err != nil {
			return r, err
		}
		// Beside it, for a cgroup with processes can pass few controllers on.
		above = path.Dir(own)
	}
	if m.Systemd {
		return r, r.resolveScope(cgroupsPath, id, above)
	}
	return r, r.resolveFolder(cgroupsPath, id, above)
}

// resolveFolder resolves a path of a cgroup that no systemd makes.
func (r *Ref) resolveFolder(cgroupsPath, id, above string) error {
	const name = "linux.cgroupsPath"
	switch {
	case strings.ContainsAny(cgroupsPath, "\x00\n"):
		return field(name, "want the path of a cgroup, not %q", cgroupsPath)
	case strings.Count(cgroupsPath, ":") == 2 && !strings.Contains(cgroupsPath, "/"):
		return field(name, "%q is a path for systemd: want --cgroup-manager=systemd, or a path of folders", cgroupsPath)
	case cgroupsPath == "":
		cgroupsPath = id
	}
	clean := path.Clean("/" + cgroupsPath)
	if clean == "/" {
		return field(name, "want the path of a cgroup of its own, not %q", cgroupsPath)
	}
	if r.Path = clean; !path.IsAbs(cgroupsPath) {
		r.Own = path.Join("/", above, ownGroup)
		r.Path = path.Join(r.Own, clean)
	}
	for _, seg := range strings.Split(r.Path, "/") {
		if len(seg) > unix.NAME_MAX {
			return field(name, "%.20q... is longer than %d characters", seg, unix.NAME_MAX)
		}
	}
	return nil
}

// resolveScope resolves slice:prefix:name.
func (r *Ref) resolveScope(cgroupsPath, id, above string) error {
	const name = "linux.cgroupsPath"
	slice, prefix, scope := "", ownGroup, escapeUnit(id)
	if cgroupsPath != "" {
		parts := strings.Split(cgroupsPath, ":")
		if len(parts) != 3 || parts[2] == "" {
			return field(name, "want slice:prefix:name for systemd, not %q", cgroupsPath)
		}
		slice, prefix, scope = parts[0], parts[1], parts[2]
		if strings.HasSuffix(scope, ".slice") {
			return field(name, "%q is a slice: a container is a scope in one", scope)
		}
	}
	if slice == "" {
		slice = "system.slice"
		if r.Rootless {
			slice = "user.slice"
		}
	}
	folders, err := expandSlice(slice)
	if err != nil {
		return field(name, "%w", err)
	}
	r.Slice, r.Unit = slice, prefix+"-"+scope+".scope"
	if escapeUnit(r.Unit) != r.Unit || len(r.Unit) > unix.NAME_MAX {
		return field(name, "%.300q is no name of a systemd unit", r.Unit)
	}
	r.Path = path.Join("/", above, folders, r.Unit)
	return nil
}

// expandSlice returns a slice's cgroup: a-b.slice is in a.slice.
//
// See systemd.slice(5).
func expandSlice(slice string) (string, error) {
	name, ok := strings.CutSuffix(slice, ".slice")
	if !ok || name == "" || strings.Contains(slice, "/") || escapeUnit(slice) != slice || len(slice) > unix.NAME_MAX {
		return "", fmt.Errorf("%.300q is no name of a slice", slice)
	}
	if name == "-" {
		return "/", nil
	}
	out, prefix := "", ""
	for part := range strings.SplitSeq(name, "-") {
		if part == "" {
			return "", fmt.Errorf("%q is no name of a slice", slice)
		}
		prefix += part
		out += "/" + prefix + ".slice"
		prefix += "-"
	}
	return out, nil
}

// escapeUnit writes what a unit's name cannot have as \xNN.
//
// See systemd.unit(5), "String Escaping for Inclusion in Unit Names".
func escapeUnit(name string) string {
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte(":-_.\\@", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}

// parseOwn finds the cgroup v2 of /proc/self/cgroup:
//
//	0::/user.slice/user-1000.slice/session-1.scope
func parseOwn(s string) (string, error) {
	for line := range strings.Lines(s) {
		if own, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok && strings.HasPrefix(own, "/") {
			return strings.TrimSuffix(own, " (deleted)"), nil
		}
	}
	return "", errors.New("cannot find the caller's cgroup: it is in none of version 2")
}

// Owner returns the host's uid that is to own a container's cgroup: that of its
// user, if it has a cgroup namespace and a user namespace of its own and
// /sys/fs/cgroup mounted read-write.
//
// See https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config-linux.md#cgroup-ownership.
func Owner(s *specs.Spec) (uid int, ok bool) {
	if s.Linux == nil || s.Process == nil {
		return 0, false
	}
	has := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range s.Linux.Namespaces {
		has[ns.Type] = ns.Path == ""
	}
	writable := false
	for _, m := range s.Mounts {
		if path.Clean(m.Destination) == "/sys/fs/cgroup" {
			writable = m.Type == "cgroup" || m.Type == "cgroup2"
			for _, o := range m.Options {
				writable = writable && o != "ro" && o != "rro"
			}
		}
	}
	if !writable || !has[specs.CgroupNamespace] || !has[specs.UserNamespace] {
		return 0, false
	}
	want := uint64(s.Process.User.UID)
	for _, m := range s.Linux.UIDMappings {
		if first := uint64(m.ContainerID); want >= first && want-first < uint64(m.Size) {
			return int(uint64(m.HostID) + want - first), true
		}
	}
	return 0, false
}
