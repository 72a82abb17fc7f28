package containers

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/sysfs"
)

// A Mode is how cgroups are mounted.
type Mode string

// Modes. In a Hybrid both versions are mounted, each with some controllers.
const (
	V1     Mode = "v1"
	V2     Mode = "v2"
	Hybrid Mode = "hybrid"
)

// Cgroups is how a machine offers cgroups.
type Cgroups struct {
	Mode Mode `json:"mode"`
	// Source is the file the mounts were read from, "/proc/mounts".
	Source string  `json:"mounts_source"`
	Mounts []Mount `json:"mounts"`
	// Self is /proc/self/cgroup as found, and Registered tells that there is a
	// /proc/cgroups.
	Self       *string `json:"self_cgroup"`
	Registered bool    `json:"proc_cgroups"`
	// V2Controllers is cgroup.controllers at the root of the v2 hierarchy as
	// found: what can be enabled there, not what is.
	V2Controllers *string `json:"v2_controllers"`
}

// A Mount is one mounted cgroup hierarchy.
type Mount struct {
	FSType string `json:"fstype"` // "cgroup" or "cgroup2"
	// Mountpoint need not be below /sys/fs/cgroup.
	Mountpoint string `json:"mountpoint"`
	// Root is the part of the hierarchy that is mounted; nil where the file does
	// not say (only mountinfo does).
	Root    *string `json:"root"`
	Options string  `json:"options"`
}

// V2 returns the folder of the v2 hierarchy relative to the machine's root,
// "sys/fs/cgroup"; false where there is none.
func (c *Cgroups) V2() (string, bool) {
	if c != nil {
		for _, m := range c.Mounts {
			if m.FSType == "cgroup2" {
				return strings.Trim(m.Mountpoint, "/"), true
			}
		}
	}
	return "", false
}

// ReadMode tells how cgroups are mounted; nil where no mounts file names any. A
// captured machine can have the mounts of its first process only.
func ReadMode(r *sysfs.Reader) *Cgroups {
	for _, source := range []string{"proc/mounts", "proc/self/mounts", "proc/1/mounts", "proc/self/mountinfo", "proc/1/mountinfo"} {
		parse := parseMounts
		if strings.HasSuffix(source, "mountinfo") {
			parse = parseMountInfo
		}
		mounts := sysfs.Value(r, source, parse)
		if mounts == nil || len(*mounts) == 0 {
			continue
		}
		c := &Cgroups{
			Mode: modeOf(*mounts), Source: "/" + source, Mounts: *mounts,
			Self: r.Text("proc/self/cgroup"), Registered: r.Bytes("proc/cgroups") != nil,
		}
		if dir, ok := c.V2(); ok {
			c.V2Controllers = r.Text(dir + "/cgroup.controllers")
		}
		return c
	}
	return nil
}

func modeOf(mounts []Mount) Mode {
	has := func(fstype string) bool {
		return slices.ContainsFunc(mounts, func(m Mount) bool { return m.FSType == fstype })
	}
	switch {
	case has("cgroup") && has("cgroup2"):
		return Hybrid
	case has("cgroup2"):
		return V2
	default:
		return V1
	}
}

// parseMounts finds the cgroup mounts in /proc/mounts, lines of
// "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0". See fstab(5).
func parseMounts(s string) ([]Mount, error) {
	var out []Mount
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) < 4 {
			return nil, fmt.Errorf("line %q is not DEVICE MOUNTPOINT TYPE OPTIONS", strings.TrimSpace(line))
		}
		if f[2] == "cgroup" || f[2] == "cgroup2" {
			out = append(out, Mount{FSType: f[2], Mountpoint: unescape(f[1]), Options: f[3]})
		}
	}
	return out, nil
}

// parseMountInfo finds them in /proc/PID/mountinfo, lines of
// "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw". See
// proc(5).
func parseMountInfo(s string) ([]Mount, error) {
	var out []Mount
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		dash := slices.Index(f, "-")
		if dash < 6 || len(f) < dash+4 {
			return nil, fmt.Errorf("line %q is not a line of mountinfo", strings.TrimSpace(line))
		}
		if t := f[dash+1]; t == "cgroup" || t == "cgroup2" {
			root := unescape(f[3])
			out = append(out, Mount{FSType: t, Mountpoint: unescape(f[4]), Root: &root, Options: f[5] + "," + f[dash+3]})
		}
	}
	return out, nil
}

// unescape undoes the kernel's octal escapes of white space, "\040" for a blank.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// SelfAllowed returns the cpus that this process may run on, from the line
// "Cpus_allowed_list:	0-3" of /proc/self/status; nil where it does not say.
func SelfAllowed(r *sysfs.Reader) *cpuset.Set {
	if s := sysfs.Value(r, "proc/self/status", parseAllowed); s != nil {
		return *s
	}
	return nil
}

func parseAllowed(s string) (*cpuset.Set, error) {
	for line := range strings.Lines(s) {
		if list, ok := strings.CutPrefix(line, "Cpus_allowed_list:"); ok {
			set, err := cpuset.Parse(list)
			return &set, err
		}
	}
	return nil, nil
}
