package containers

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/sysfs"
)

// An ID is a container's cgroup, relative to the root of the hierarchy:
// "machine.slice/libpod-1234.scope".
type ID string

// DefaultPeriod is the kernel's period of cpu.max.
const DefaultPeriod = 100 * time.Millisecond

// MinQuota is the least quota the kernel takes (1 ms, see sched/core.c
// min_cfs_quota_period).
const MinQuota = time.Millisecond

// A CPUMax is the content of cpu.max: the cpu time a cgroup may use in each
// period. A Quota of 0 is "max", no limit.
type CPUMax struct {
	Quota  time.Duration `json:"quota_ns"`
	Period time.Duration `json:"period_ns"`
}

// ParseCPUMax reads cpu.max, e.g. "50000 100000" or "max 100000" (microseconds).
func ParseCPUMax(s string) (CPUMax, error) {
	f := strings.Fields(s)
	if len(f) == 0 || len(f) > 2 {
		return CPUMax{}, fmt.Errorf("cpu.max %q is not QUOTA PERIOD", s)
	}
	m := CPUMax{Period: DefaultPeriod}
	if f[0] != "max" {
		us, err := parseMicroseconds(f[0])
		if err != nil || us == 0 {
			return CPUMax{}, fmt.Errorf("cpu.max %q: quota %q is neither max nor microseconds", s, f[0])
		}
		m.Quota = us
	}
	if len(f) == 2 {
		us, err := parseMicroseconds(f[1])
		if err != nil || us == 0 {
			return CPUMax{}, fmt.Errorf("cpu.max %q: period %q is not microseconds", s, f[1])
		}
		m.Period = us
	}
	return m, nil
}

func parseMicroseconds(s string) (time.Duration, error) {
	us, err := strconv.ParseUint(s, 10, 43) // 2^43 us in ns still fits an int64
	if err != nil {
		return 0, err
	}
	return time.Duration(us) * time.Microsecond, nil
}

// CPUs returns the limit as a number of cpus, and false where there is none.
func (m CPUMax) CPUs() (float64, bool) {
	if m.Quota == 0 {
		return 0, false
	}
	return float64(m.Quota) / float64(m.Period), true
}

// String prints m as cpu.max does.
func (m CPUMax) String() string {
	quota := "max"
	if m.Quota > 0 {
		quota = strconv.FormatInt(m.Quota.Microseconds(), 10)
	}
	return quota + " " + strconv.FormatInt(m.Period.Microseconds(), 10)
}

// A CPUStat is what a cgroup has used since it was made, from cpu.stat.
type CPUStat struct {
	Usage     time.Duration `json:"usage_ns"`
	Periods   uint64        `json:"nr_periods"`
	Throttled uint64        `json:"nr_throttled"`
	Waited    time.Duration `json:"throttled_ns"`
}

// ParseCPUStat reads cpu.stat, lines of "usage_usec 1234". The throttling lines
// are there only where the cpu controller is enabled.
func ParseCPUStat(s string) (CPUStat, error) {
	var st CPUStat
	found := false
	for line := range strings.Lines(s) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		var err error
		switch key {
		case "usage_usec":
			st.Usage, err = parseMicroseconds(value)
			found = true
		case "throttled_usec":
			st.Waited, err = parseMicroseconds(value)
		case "nr_periods":
			st.Periods, err = strconv.ParseUint(value, 10, 64)
		case "nr_throttled":
			st.Throttled, err = strconv.ParseUint(value, 10, 64)
		}
		if err != nil {
			return CPUStat{}, fmt.Errorf("cpu.stat: %s %q is not a number", key, value)
		}
	}
	if !found {
		return CPUStat{}, fmt.Errorf("cpu.stat has no usage_usec")
	}
	return st, nil
}

// A Glob selects cgroups by path, segment by segment, as path.Match does; a
// segment "**" stands for any number of segments.
type Glob []string

// ParseGlob checks a pattern, e.g. "machine.slice/*.scope" or "kubepods.slice/**/cri-*".
func ParseGlob(s string) (Glob, error) {
	s = strings.Trim(s, "/")
	if s == "" {
		return nil, fmt.Errorf("cgroup pattern %q is empty", s)
	}
	g := Glob(strings.Split(s, "/"))
	for _, seg := range g {
		if _, err := path.Match(seg, ""); err != nil || seg == "" || seg == "." || seg == ".." {
			return nil, fmt.Errorf("cgroup pattern %q: segment %q is not a pattern", s, seg)
		}
	}
	return g, nil
}

// String prints the pattern.
func (g Glob) String() string { return strings.Join(g, "/") }

// Match reports whether the cgroup id matches.
func (g Glob) Match(id ID) bool { return match(g, strings.Split(string(id), "/")) }

func match(g Glob, segs []string) bool {
	for len(g) > 0 {
		if g[0] == "**" {
			for i := range len(segs) + 1 {
				if match(g[1:], segs[i:]) {
					return true
				}
			}
			return false
		}
		if len(segs) == 0 {
			return false
		}
		if ok, _ := path.Match(g[0], segs[0]); !ok {
			return false
		}
		g, segs = g[1:], segs[1:]
	}
	return len(segs) == 0
}

// A Tree is the cgroup v2 hierarchy of a machine.
type Tree struct {
	fs sysfs.FS
	// Mount is where the hierarchy is, below the machine's root:
	// "sys/fs/cgroup".
	Mount string
}

// NewTree returns the hierarchy mounted at mount.
func NewTree(m sysfs.FS, mount string) *Tree { return &Tree{m, mount} }

// maxDepth bounds the walk; the kernel's own default limit (cgroup.max.depth)
// is none, and kubelets stay under 10.
const maxDepth = 32

// Find returns the cgroups that match any pattern, sorted. It lists only the
// directories that can hold one.
func (t *Tree) Find(patterns []Glob) ([]ID, error) {
	var out []ID
	err := t.find("", patterns, 0, &out)
	slices.Sort(out)
	return slices.Compact(out), err
}

func (t *Tree) find(dir string, live []Glob, depth int, out *[]ID) error {
	if depth > maxDepth {
		return fmt.Errorf("cgroup %s is nested deeper than %d", dir, maxDepth)
	}
	names, err := t.fs.ReadDir(path.Join(t.Mount, dir))
	if err != nil {
		if depth > 0 && sysfs.Absent(err) {
			return nil // gone between listing and looking, or a plain file
		}
		return err
	}
	for _, name := range names {
		if controlFile(name) {
			continue
		}
		var next []Glob
		for _, g := range live {
			next = append(next, step(g, name)...)
		}
		if len(next) == 0 {
			continue
		}
		id := path.Join(dir, name)
		deeper := next[:0]
		for _, g := range next {
			if len(g) == 0 || len(g) == 1 && g[0] == "**" {
				*out = append(*out, ID(id))
			}
			if len(g) > 0 {
				deeper = append(deeper, g)
			}
		}
		if len(deeper) > 0 {
			if err := t.find(id, deeper, depth+1, out); err != nil {
				return err
			}
		}
	}
	return nil
}

// step returns what is left of a pattern after a segment of that name.
func step(g Glob, name string) []Glob {
	if len(g) == 0 {
		return nil
	}
	if g[0] == "**" {
		return append(step(g[1:], name), g)
	}
	if ok, _ := path.Match(g[0], name); ok {
		return []Glob{g[1:]}
	}
	return nil
}

// controlFile tells the kernel's own files ("cpu.max") from child cgroups
// without a stat each. Children may hold dots too ("a.slice"), so it goes by
// the controllers' names.
func controlFile(name string) bool {
	prefix, _, dotted := strings.Cut(name, ".")
	if !dotted {
		return false
	}
	switch prefix {
	case "cgroup", "cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma", "misc", "irq", "dmem", "perf_event":
		return !strings.HasSuffix(name, ".slice") && !strings.HasSuffix(name, ".scope") && !strings.HasSuffix(name, ".service")
	}
	return false
}

// Path returns the name of a cgroup's file below the machine's root.
func (t *Tree) Path(id ID, file string) string { return path.Join(t.Mount, string(id), file) }

// A Container is one cgroup's state.
type Container struct {
	ID        ID          `json:"id"`
	Stat      CPUStat     `json:"cpu_stat"`
	CPUs      *cpuset.Set `json:"cpuset_cpus"`           // as asked for; nil without the controller
	Effective *cpuset.Set `json:"cpuset_cpus_effective"` // as the kernel grants
	Max       *CPUMax     `json:"cpu_max"`               // nil without the controller
}

// Read returns the state of one cgroup.
func (t *Tree) Read(r *sysfs.Reader, id ID) (Container, bool) {
	stat := sysfs.Value(r, t.Path(id, "cpu.stat"), ParseCPUStat)
	if stat == nil {
		return Container{}, false
	}
	return Container{
		ID:        id,
		Stat:      *stat,
		CPUs:      sysfs.Value(r, t.Path(id, "cpuset.cpus"), cpuset.Parse),
		Effective: sysfs.Value(r, t.Path(id, "cpuset.cpus.effective"), cpuset.Parse),
		Max:       sysfs.Value(r, t.Path(id, "cpu.max"), ParseCPUMax),
	}, true
}

// EnableWrites returns the writes that give the cgroup id the files of the
// controllers named: "+cpuset" in the subtree_control of each ancestor that
// offers the controller and has not enabled it. The writes go from the root
// down, as the kernel wants it. Controllers that the root does not offer are
// returned as missing.
func (t *Tree) EnableWrites(r *sysfs.Reader, id ID, controllers ...string) (writes []sysfs.Write, missing []string) {
	offered := sysfs.Value(r, t.Path("", "cgroup.controllers"), parseFields)
	segs := strings.Split(string(id), "/")
	for _, c := range controllers {
		if offered == nil || !slices.Contains(*offered, c) {
			missing = append(missing, c)
		}
	}
	for i := range segs {
		file := t.Path(ID(path.Join(segs[:i]...)), "cgroup.subtree_control")
		enabled := sysfs.Value(r, file, parseFields)
		if enabled == nil {
			continue
		}
		var add []string
		for _, c := range controllers {
			if !slices.Contains(*enabled, c) && !slices.Contains(missing, c) {
				add = append(add, "+"+c)
			}
		}
		if len(add) > 0 {
			writes = append(writes, sysfs.Write{File: file, Value: strings.Join(add, " ")})
		}
	}
	return writes, missing
}

// parseFields reads a list of words, e.g. "cpuset cpu io memory pids".
func parseFields(s string) ([]string, error) { return strings.Fields(s), nil }
