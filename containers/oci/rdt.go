package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// rdt is what linux.intelRdt asks of the resctrl file system.
//
// See https://docs.kernel.org/filesystems/resctrl.html and
// https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config-linux.md#intelrdt.
type rdt struct {
	// group is the folder of the class of service, monitor that of its monitoring
	// group, "" without.
	group, monitor string
	// make: the group is not there yet.
	make bool
	// schemata are to be written, or to be found where the group is there.
	schemata []string
	// made are the folders that go with the container, in the order they are made.
	made []string
}

// checkRdt refuses what no group could be made of.
func checkRdt(r *specs.LinuxIntelRdt) error {
	const name = "linux.intelRdt"
	switch {
	case r == nil:
		return nil
	case r.ClosID != "/" && (strings.ContainsAny(r.ClosID, "/\x00\n") || r.ClosID == "." || r.ClosID == ".." || len(r.ClosID) > unix.NAME_MAX || slices.Contains([]string{"info", "mon_groups", "mon_data"}, r.ClosID)):
		return field(name+".closID", "want a name, or / for the default class, not %q", r.ClosID)
	case r.MemBwSchema != "" && !strings.HasPrefix(r.MemBwSchema, "MB:"):
		return field(name+".memBwSchema", "want MB:..., not %q", r.MemBwSchema)
	case r.L3CacheSchema != "" && !strings.HasPrefix(r.L3CacheSchema, "L3"):
		return field(name+".l3CacheSchema", "want L3:..., not %q", r.L3CacheSchema)
	}
	for i, line := range schemata(r) {
		if strings.ContainsAny(line, "\n\x00") || !strings.Contains(line, ":") {
			return field(name, "line %d of its schemata is %q, want RESOURCE:ID=VALUE;...", i+1, line)
		}
	}
	return nil
}

// schemata are the lines in the order in which they count.
func schemata(r *specs.LinuxIntelRdt) []string {
	var out []string
	for _, line := range append([]string{r.L3CacheSchema, r.MemBwSchema}, r.Schemata...) {
		if line != "" {
			out = append(out, line)
		}
	}
	return out
}

// resctrlMount finds where the file system is.
func resctrlMount(mountinfo string) (string, bool) {
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		if f := strings.Fields(before); ok && strings.HasPrefix(after, "resctrl ") && len(f) > 4 {
			return f[4], true
		}
	}
	return "", false
}

// planRdt looks at what there is. Nothing is made.
func planRdt(r *specs.LinuxIntelRdt, id string) (*rdt, error) {
	if r == nil {
		return nil, nil
	}
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	root, ok := resctrlMount(string(data))
	if !ok {
		return nil, field("linux.intelRdt", "no resctrl file system is mounted on this host: mount -t resctrl resctrl /sys/fs/resctrl, where the cpu has Intel RDT or its like")
	}
	return rdtIn(root, r, id)
}

func rdtIn(root string, r *specs.LinuxIntelRdt, id string) (*rdt, error) {
	p := &rdt{schemata: schemata(r)}
	switch r.ClosID {
	case "/":
		p.group = root
	case "":
		p.group = filepath.Join(root, id)
	default:
		p.group = filepath.Join(root, r.ClosID)
	}
	_, err := os.Stat(p.group)
	there := err == nil
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case there && r.ClosID == "":
		return nil, field("linux.intelRdt", "%s is there already, and may be another's", p.group)
	case !there && r.ClosID != "" && len(p.schemata) == 0:
		return nil, field("linux.intelRdt.closID", "there is no class %q, and no schemata to make it of", r.ClosID)
	case there && len(p.schemata) > 0:
		if err := p.same(); err != nil {
			return nil, err
		}
	}
	p.make = !there
	if r.ClosID == "" {
		p.made = append(p.made, p.group)
	}
	if r.EnableMonitoring {
		p.monitor = filepath.Join(p.group, "mon_groups", id)
		p.made = append(p.made, p.monitor)
	}
	return p, nil
}

// same refuses a class that is there with other schemata.
func (p *rdt) same() error {
	data, err := os.ReadFile(filepath.Join(p.group, "schemata"))
	if err != nil {
		return fmt.Errorf("cannot read linux.intelRdt's class: %w", err)
	}
	has := map[string]string{}
	each := func(line string, do func(key, value string)) {
		resource, values, _ := strings.Cut(strings.TrimSpace(line), ":")
		for v := range strings.SplitSeq(values, ";") {
			domain, value, _ := strings.Cut(v, "=")
			do(resource+":"+strings.TrimSpace(domain), strings.TrimLeft(strings.ToLower(strings.TrimSpace(value)), "0"))
		}
	}
	for line := range strings.Lines(string(data)) {
		each(line, func(key, value string) { has[key] = value })
	}
	want := map[string]string{} // a later line overrides
	for _, line := range p.schemata {
		each(line, func(key, value string) { want[key] = value })
	}
	for key, value := range want {
		if has[key] != value {
			return field("linux.intelRdt", "class %s has %s=%s, not %s", p.group, key, has[key], value)
		}
	}
	return nil
}

// create makes the groups.
func (p *rdt) create() error {
	fail := func(err error) error {
		why := ""
		if data, rerr := os.ReadFile(filepath.Join(filepath.Dir(p.group), "info/last_cmd_status")); rerr == nil && strings.TrimSpace(string(data)) != "ok" {
			why = ": " + strings.TrimSpace(string(data))
		}
		return field("linux.intelRdt", "%v%s", err, why)
	}
	if p.make {
		if err := os.Mkdir(p.group, 0o755); err != nil {
			return fail(err)
		}
		if len(p.schemata) > 0 {
			if err := os.WriteFile(filepath.Join(p.group, "schemata"), []byte(strings.Join(p.schemata, "\n")+"\n"), 0o644); err != nil {
				err = fail(err)
				unix.Rmdir(p.group) //nolint:errcheck // a class that is not as asked for is not to stay
				return err
			}
		}
	}
	if p.monitor != "" {
		if err := os.Mkdir(p.monitor, 0o755); err != nil {
			return fail(err)
		}
	}
	return nil
}

// removeRdt removes them, the last first. What is gone already is no error.
func removeRdt(folders []string) error {
	for _, dir := range slices.Backward(folders) {
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
			return fmt.Errorf("cannot remove resctrl group %s: %w", dir, err)
		}
	}
	return nil
}

// joinRdt brings the process into its groups, and what it starts with it.
func (b *builder) joinRdt(groups ...string) {
	for _, g := range groups {
		if g != "" {
			what := "join resctrl group " + g
			b.write(what, b.Do(what, unix.SYS_OPENAT, unix.AT_FDCWD, filepath.Join(g, "tasks"), unix.O_WRONLY|unix.O_CLOEXEC).Save(), "0")
		}
	}
}
