package sim

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/powerd/powerd/containers"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/units"
)

const (
	cpuDir    = "sys/devices/system/cpu"
	cgroupDir = "sys/fs/cgroup"
	raplDir   = "sys/class/powercap/intel-rapl:0"
	acpiDir   = "sys/class/hwmon/hwmon0"
)

var _ sysfs.FS = (*Machine)(nil)

// A file answers reads and takes writes. A nil write is read-only.
type file struct {
	read  func() (string, error)
	write func(string) error
}

func (m *Machine) add(name string, read func() string, write func(string) error) {
	m.addErr(name, func() (string, error) { return read(), nil }, write)
}

func (m *Machine) addErr(name string, read func() (string, error), write func(string) error) {
	m.files[name] = &file{read, write}
	m.link(name)
}

func (m *Machine) link(name string) {
	for name != "." {
		dir, base := path.Dir(name), path.Base(name)
		if m.dirs[dir][base] {
			return
		}
		if m.dirs[dir] == nil {
			m.dirs[dir] = map[string]bool{}
		}
		m.dirs[dir][base] = true
		name = dir
	}
}

func (m *Machine) drop(name string) {
	delete(m.files, name)
	delete(m.dirs, name)
	delete(m.dirs[path.Dir(name)], path.Base(name))
}

func fixed(v any) func() string { return func() string { return fmt.Sprint(v) } }

func pathErr(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// ReadFile implements sysfs.FS.
func (m *Machine) ReadFile(name string) ([]byte, error) {
	f := m.files[name]
	if f == nil {
		if m.dirs[name] != nil {
			return nil, pathErr("read", name, syscall.EISDIR)
		}
		return nil, pathErr("open", name, syscall.ENOENT)
	}
	s, err := f.read()
	if err != nil {
		return nil, pathErr("read", name, err)
	}
	return []byte(s + "\n"), nil
}

// WriteFile implements sysfs.FS.
func (m *Machine) WriteFile(name string, data []byte) error {
	f := m.files[name]
	if f == nil {
		if m.dirs[name] != nil {
			return pathErr("open", name, syscall.EISDIR)
		}
		return pathErr("open", name, syscall.ENOENT)
	}
	if f.write == nil && strings.HasPrefix(name, cgroupDir) {
		return pathErr("write", name, syscall.EINVAL) // root may open it, and it has no handler
	}
	if f.write == nil {
		return pathErr("open", name, syscall.EACCES)
	}
	if len(data) == 0 {
		return nil // a write of no bytes never reaches the file's handler
	}
	if m.faults.Write > 0 && m.chance.Float64() < m.faults.Write {
		return pathErr("write", name, []error{syscall.EIO, syscall.EBUSY}[m.chance.IntN(2)])
	}
	if err := f.write(strings.TrimSuffix(string(data), "\n")); err != nil {
		return pathErr("write", name, err)
	}
	return nil
}

// ReadDir implements sysfs.FS.
func (m *Machine) ReadDir(name string) ([]string, error) {
	d, ok := m.dirs[path.Clean(name)]
	if !ok {
		return nil, pathErr("open", name, syscall.ENOENT)
	}
	return slices.Sorted(maps.Keys(d)), nil
}

// Mkdir implements sysfs.FS: it makes a cgroup.
func (m *Machine) Mkdir(name string) error {
	rel, ok := strings.CutPrefix(name, cgroupDir+"/")
	if !ok {
		return pathErr("mkdir", name, syscall.EPERM)
	}
	if m.dirs[name] != nil || m.files[name] != nil {
		return pathErr("mkdir", name, syscall.EEXIST)
	}
	parent := m.find(path.Dir(rel))
	if parent == nil {
		return pathErr("mkdir", name, syscall.ENOENT)
	}
	g := m.newCgroup(parent, rel)
	m.dirs[name] = map[string]bool{}
	m.link(name)
	m.cgroupFiles(g)
	return nil
}

// Attribute returns an extended attribute of a cgroup's directory, nil if it has none.
func (m *Machine) Attribute(name, attribute string) ([]byte, error) {
	rel, ok := strings.CutPrefix(name, cgroupDir+"/")
	g := m.find(rel)
	if !ok || g == nil {
		return nil, pathErr("getxattr", name, syscall.ENOENT)
	}
	if v, ok := g.attrs[attribute]; ok {
		return []byte(v), nil
	}
	return nil, nil
}

// Remove implements sysfs.FS: it removes an empty cgroup.
func (m *Machine) Remove(name string) error {
	rel, ok := strings.CutPrefix(name, cgroupDir+"/")
	g := m.find(rel)
	switch {
	case !ok:
		return pathErr("rmdir", name, syscall.EPERM)
	case g == nil:
		return pathErr("rmdir", name, syscall.ENOENT)
	case len(g.children) > 0 || len(g.tasks) > 0:
		return pathErr("rmdir", name, syscall.EBUSY)
	}
	m.removeCgroup(g)
	return nil
}

func (m *Machine) removeCgroup(g *cgroup) {
	g.parent.children = slices.DeleteFunc(g.parent.children, func(o *cgroup) bool { return o == g })
	nj := g.energy.now(m.now).whole()
	m.unclaim[g.path] += nj
	m.removed += nj
	g.parent.bequest += g.used(m.now)
	delete(m.groups, g.path)
	m.numbered[g.number] = nil
	m.queues[refilled].set(g.number, never)
	m.queues[exhausted].set(g.number, never)
	dir := path.Join(cgroupDir, g.path)
	for f := range m.dirs[dir] {
		m.drop(path.Join(dir, f))
	}
	m.drop(dir)
}

func (m *Machine) find(rel string) *cgroup {
	if rel == "." {
		rel = ""
	}
	return m.groups[rel]
}

// Knobs returns every writable file with its value.
func (m *Machine) Knobs() map[string]string {
	out := map[string]string{}
	for name, f := range m.files {
		if f.write != nil {
			v, err := f.read()
			if err != nil {
				v = err.Error()
			}
			out[name] = v
		}
	}
	return out
}

// Foreign returns the files that somebody else has changed (Faults.Foreign).
func (m *Machine) Foreign() []string { return slices.Sorted(maps.Keys(m.foreign)) }

// SetFaults changes what goes wrong from now on.
func (m *Machine) SetFaults(f Faults) { m.faults = f }

// leadingNumber is what sscanf("%u") takes: digits up to anything else; no digits
// are EINVAL.
func leadingNumber(s string) (uint64, error) {
	s = strings.TrimLeft(s, " \t\n")
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	if n == 0 {
		return 0, syscall.EINVAL
	}
	v, err := strconv.ParseUint(s[:n], 10, 64)
	if err != nil {
		return ^uint64(0) >> 1, nil // scanf wraps; beyond every limit serves
	}
	return v, nil
}

func (m *Machine) buildFiles() {
	last := len(m.cpus) - 1
	all := cpuset.Range(0, cpuset.CPU(last)).String()
	m.add(cpuDir+"/online", func() string { return m.online().String() }, nil)
	m.add(cpuDir+"/offline", func() string { return cpuset.Range(0, cpuset.CPU(last)).Minus(m.online()).String() }, nil)
	m.add(cpuDir+"/present", fixed(all), nil)
	m.add(cpuDir+"/possible", fixed(all), nil)
	m.add(cpuDir+"/kernel_max", fixed(max(last, 63)), nil)
	m.add(cpuDir+"/cpuidle/current_driver", fixed("acpi_idle"), nil)
	m.add(cpuDir+"/cpuidle/current_governor_ro", fixed("menu"), nil)
	m.add("sys/devices/system/node/node0/cpulist", func() string { return m.online().String() }, nil)
	m.add("sys/devices/system/node/online", fixed(0), nil)
	for _, p := range m.cpus {
		m.cpuFiles(p)
	}
	for _, d := range m.domains {
		m.policyFiles(d)
	}
	m.add("proc/stat", m.procStat, nil)
	m.add("proc/uptime", func() string { return fmt.Sprintf("%.2f 0.00", m.now.Seconds()) }, nil)
	m.add("proc/sys/kernel/random/boot_id", fixed("00000000-0000-4000-8000-000000000001"), nil)
	mounts := "cgroup2 /" + cgroupDir + " cgroup2 rw,nosuid,nodev,noexec,relatime 0 0"
	for _, f := range []string{"proc/mounts", "proc/self/mounts"} {
		m.add(f, fixed(mounts), nil)
	}
	m.add("proc/self/cgroup", fixed("0::/"), nil)
	m.cgroupFiles(m.root)
	m.meterFiles()
}

func (m *Machine) procStat() string {
	var b strings.Builder
	var busy time.Duration
	for _, p := range m.cpus {
		busy += m.busyFor(p)
	}
	tick := func(d time.Duration) int64 { return int64(d / (10 * time.Millisecond)) }
	fmt.Fprintf(&b, "cpu  %d 0 0 %d 0 0 0 0 0 0", tick(busy), tick(m.now*time.Duration(len(m.cpus))-busy))
	for _, p := range m.cpus {
		if p.online {
			fmt.Fprintf(&b, "\ncpu%d %d 0 0 %d 0 0 0 0 0 0", p.id, tick(m.busyFor(p)), tick(m.now-m.busyFor(p)))
		}
	}
	return b.String()
}

func (m *Machine) cpuFiles(p *cpu) {
	dir := fmt.Sprintf("%s/cpu%d", cpuDir, p.id)
	ids := func(cpus []*cpu) func() string {
		return func() string {
			var on []cpuset.CPU
			for _, c := range cpus {
				if c.online {
					on = append(on, c.id)
				}
			}
			return cpuset.Of(on...).String()
		}
	}
	while := func(name string, read func() string) { // gone while the cpu is offline
		m.addErr(dir+"/"+name, func() (string, error) {
			if !p.online {
				return "", syscall.ENOENT
			}
			return read(), nil
		}, nil)
	}
	while("topology/core_id", fixed(p.core.id))
	while("topology/physical_package_id", fixed(m.packageOf(p)))
	while("topology/thread_siblings_list", ids(p.core.cpus))
	while("topology/core_cpus_list", ids(p.core.cpus))
	var pkg []*cpu
	for _, o := range m.cpus {
		if m.packageOf(o) == m.packageOf(p) {
			pkg = append(pkg, o)
		}
	}
	while("topology/package_cpus_list", ids(pkg))
	while("topology/core_siblings_list", ids(pkg))
	while("cache/index0/level", fixed(1))
	while("cache/index0/type", fixed("Data"))
	while("cache/index0/shared_cpu_list", ids(p.core.cpus))
	while("cache/index3/level", fixed(3))
	while("cache/index3/type", fixed("Unified"))
	while("cache/index3/shared_cpu_list", ids(p.island.cpus))
	if m.hybrid {
		m.add(dir+"/cpu_capacity", fixed(int(p.capacity*1024+0.5)), nil)
	}
	m.add(dir+"/power/pm_qos_resume_latency_us", func() string { return p.bound }, func(s string) error {
		defer p.vet()
		if s == "n/a" {
			p.bound = s
			return nil
		}
		v, err := strconv.ParseInt(s, 10, 32)
		if err != nil || v < 0 || v == 1<<31-1 {
			return syscall.EINVAL
		}
		p.bound = strconv.FormatInt(v, 10)
		return nil
	})
	if p.id > 0 {
		m.add(dir+"/online", func() string { return map[bool]string{true: "1", false: "0"}[p.online] }, func(s string) error {
			switch s {
			case "0", "1":
				m.plug(p, s == "1")
				return nil
			}
			return syscall.EINVAL
		})
	}
	for i, s := range p.idle {
		at := fmt.Sprintf("%s/cpuidle/state%d/", dir, i)
		m.add(at+"name", fixed(s.Name), nil)
		m.add(at+"desc", fixed(s.Name), nil)
		m.add(at+"latency", fixed(int((s.Entry+s.Exit)*1e6+0.5)), nil)
		m.add(at+"residency", fixed(int(s.Residency*1e6+0.5)), nil)
		m.add(at+"power", fixed(0), nil)
		m.add(at+"default_status", fixed("enabled"), nil)
		m.add(at+"time", func() string { return strconv.FormatInt(m.idleFor(p, i).Microseconds(), 10) }, nil)
		m.add(at+"usage", func() string { return strconv.FormatUint(p.stays[i].usage, 10) }, nil)
		m.add(at+"disable", func() string { return map[bool]string{true: "1", false: "0"}[p.disabled[i]] }, func(s string) error {
			v, err := strconv.ParseUint(s, 10, 64)
			if err != nil {
				return syscall.EINVAL
			}
			p.disabled[i] = v != 0
			p.vet()
			return nil
		})
	}
}

func (m *Machine) packageOf(p *cpu) int {
	i := slices.Index(m.islands, p.island)
	return m.spec.Clusters[i].Package
}

func (m *Machine) policyFiles(d *domain) {
	dir := fmt.Sprintf("%s/cpufreq/policy%d/", cpuDir, d.id)
	on := func() cpuset.Set {
		var ids []cpuset.CPU
		for _, p := range d.cpus {
			if p.online {
				ids = append(ids, p.id)
			}
		}
		return cpuset.Of(ids...)
	}
	// Every file of a policy whose cpus are all offline answers EBUSY.
	add := func(name string, read func() string, write func(string) error) {
		if write != nil {
			inner := write
			write = func(s string) error {
				if on().Empty() {
					return syscall.EBUSY
				}
				return inner(s)
			}
		}
		m.addErr(dir+name, func() (string, error) {
			if on().Empty() {
				return "", syscall.EBUSY
			}
			return read(), nil
		}, write)
	}
	n := len(d.curve.OPPs)
	var table []string
	for i := range n {
		table = append(table, strconv.FormatUint(uint64(d.frequency(n-1-i)), 10))
	}
	khz := func(f units.Frequency) string { return strconv.FormatUint(uint64(f), 10) }
	var all []cpuset.CPU
	for _, p := range d.cpus {
		all = append(all, p.id)
	}
	add("affected_cpus", func() string { return spaced(on()) }, nil)
	add("related_cpus", fixed(spaced(cpuset.Of(all...))), nil)
	add("scaling_driver", fixed(m.spec.Driver), nil)
	add("scaling_available_governors", fixed(strings.Join(governors, " ")), nil)
	add("scaling_available_frequencies", fixed(strings.Join(table, " ")), nil)
	add("cpuinfo_min_freq", fixed(khz(d.frequency(0))), nil)
	add("cpuinfo_max_freq", fixed(khz(d.frequency(n-1))), nil)
	add("cpuinfo_transition_latency", fixed(10000), nil)
	add("scaling_cur_freq", func() string { return khz(d.frequency(d.opp)) }, nil)
	add("scaling_governor", func() string { return d.governor }, func(s string) error {
		if !slices.Contains(governors, s) {
			return syscall.EINVAL
		}
		d.governor = s
		m.clamp(d)
		return nil
	})
	limit := func(to *units.Frequency) func(string) error {
		return func(s string) error {
			v, err := leadingNumber(s)
			if err != nil {
				return err
			}
			*to = units.Frequency(v)
			d.limit()
			m.clamp(d)
			return nil
		}
	}
	add("scaling_min_freq", func() string { return khz(d.frequency(d.lo)) }, limit(&d.min))
	add("scaling_max_freq", func() string { return khz(d.frequency(d.hi)) }, limit(&d.max))
	add("scaling_setspeed", func() string {
		if d.governor != "userspace" {
			return "<unsupported>"
		}
		return khz(d.frequency(d.atLeast(float64(d.setspeed))))
	}, func(s string) error {
		v, err := leadingNumber(s)
		if err != nil || d.governor != "userspace" {
			return syscall.EINVAL
		}
		d.setspeed = units.Frequency(v)
		m.clamp(d)
		return nil
	})
	add("stats/time_in_state", func() string {
		var b strings.Builder
		for i := range d.times {
			if i > 0 {
				b.WriteByte('\n')
			}
			fmt.Fprintf(&b, "%d %d", d.frequency(i), m.clockedFor(d, i)/(10*time.Millisecond))
		}
		return b.String()
	}, nil)
	add("stats/total_trans", func() string { return strconv.FormatUint(d.trans, 10) }, nil)
}

// spaced prints cpus as cpufreq does, "0 1 2".
func spaced(s cpuset.Set) string {
	var out []string
	for c := range s.All() {
		out = append(out, strconv.Itoa(int(c)))
	}
	return strings.Join(out, " ")
}

// cgroupFiles makes the files a group has by its parent's subtree_control.
func (m *Machine) cgroupFiles(g *cgroup) {
	dir := path.Join(cgroupDir, g.path) + "/"
	offered := controllers
	if g.parent != nil {
		offered = g.parent.enabled
	}
	m.add(dir+"cgroup.controllers", func() string {
		if g.parent != nil {
			return strings.Join(g.parent.enabled, " ")
		}
		return strings.Join(controllers, " ")
	}, nil)
	m.add(dir+"cgroup.subtree_control", func() string { return strings.Join(g.enabled, " ") }, func(s string) error { return m.control(g, s) })
	m.add(dir+"cgroup.procs", func() string {
		var pids []string
		for _, t := range slices.SortedFunc(slices.Values(g.tasks), func(a, b *task) int { return a.id - b.id }) {
			pids = append(pids, strconv.Itoa(1000+t.id))
		}
		return strings.Join(pids, "\n")
	}, func(s string) error {
		v, err := strconv.ParseUint(s, 10, 31)
		if err != nil {
			return syscall.EINVAL
		}
		if v < 1000 || v >= uint64(1000+len(m.tasks)) || m.tasks[v-1000].group == nil {
			return syscall.ESRCH
		}
		m.move(m.tasks[v-1000], g)
		return nil
	})
	stat := func() string {
		s := fmt.Sprintf("usage_usec %d\nuser_usec %d\nsystem_usec 0", g.used(m.now).Microseconds(), g.used(m.now).Microseconds())
		if g.parent == nil || slices.Contains(g.parent.enabled, "cpu") {
			s += fmt.Sprintf("\nnr_periods %d\nnr_throttled %d\nthrottled_usec %d\nnr_bursts 0\nburst_usec 0", g.periods, g.stops, g.waited.Microseconds())
		}
		return s
	}
	m.add(dir+"cpu.stat", stat, nil)
	if g.parent == nil {
		m.add(dir+"cpuset.cpus.effective", func() string { return m.online().String() }, nil)
		return
	}
	m.add(dir+"cgroup.type", fixed("domain"), nil)
	has := func(c string, names ...string) bool {
		if slices.Contains(offered, c) {
			return true
		}
		for _, n := range names {
			m.drop(dir + n)
		}
		return false
	}
	if has("cpu", "cpu.max", "cpu.weight") {
		m.add(dir+"cpu.max", func() string { return g.max.String() }, func(s string) error { return m.setMax(g, s) })
		m.add(dir+"cpu.weight", func() string { return strconv.Itoa(int(g.weight)) }, func(s string) error {
			v, err := strconv.ParseUint(s, 10, 64)
			switch {
			case err != nil && !errors.Is(err, strconv.ErrRange):
				return syscall.EINVAL
			case err != nil || v < 1 || v > 10000:
				return syscall.ERANGE
			}
			g.weigh(m, float64(v))
			return nil
		})
	}
	if has("cpuset", "cpuset.cpus", "cpuset.cpus.effective") {
		m.add(dir+"cpuset.cpus", func() string { return g.cpus.String() }, func(s string) error {
			set, err := cpuset.Parse(s)
			if err != nil {
				if strings.Contains(err.Error(), "is above") {
					return syscall.ERANGE
				}
				return syscall.EINVAL
			}
			if !set.SubsetOf(cpuset.Range(0, cpuset.CPU(len(m.cpus)-1))) {
				return syscall.ERANGE // beyond the possible cpus
			}
			if set.Empty() && !g.cpus.Empty() && g.populated() {
				return syscall.ENOSPC // validate_change in kernel/cgroup/cpuset.c
			}
			g.cpus = set
			g.confine(m)
			m.migrate()
			return nil
		})
		m.add(dir+"cpuset.cpus.effective", func() string { return g.effective.String() }, nil)
	}
}

// setMax takes cpu.max: what the kernel refuses is in sched/core.c, tg_set_cfs_bandwidth.
func (m *Machine) setMax(g *cgroup, s string) error {
	f := strings.Fields(s)
	if len(f) == 0 {
		return syscall.EINVAL
	}
	next := containers.CPUMax{Period: g.max.Period}
	if len(f) > 1 {
		if v, err := leadingNumber(f[1]); err == nil {
			if v < 1000 || v > 1000000 {
				return syscall.EINVAL
			}
			next.Period = time.Duration(v) * time.Microsecond
		}
	}
	if f[0] != "max" {
		v, err := leadingNumber(f[0])
		if err != nil || v < 1000 || v > 1<<44/1000 {
			return syscall.EINVAL
		}
		next.Quota = time.Duration(v) * time.Microsecond
	}
	g.limit(m, next)
	return nil
}

// control takes changes of subtree_control, all or none.
func (m *Machine) control(g *cgroup, s string) error {
	offered := controllers
	if g.parent != nil {
		offered = g.parent.enabled
	}
	next := slices.Clone(g.enabled)
	for _, f := range strings.Fields(s) {
		if len(f) < 2 || f[0] != '+' && f[0] != '-' || !slices.Contains(controllers, f[1:]) {
			return syscall.EINVAL
		}
		name := f[1:]
		next = slices.DeleteFunc(next, func(o string) bool { return o == name })
		if f[0] == '+' {
			if !slices.Contains(offered, name) {
				return syscall.ENOENT
			}
			next = append(next, name)
		} else {
			for _, c := range g.children {
				if slices.Contains(c.enabled, name) {
					return syscall.EBUSY
				}
			}
		}
	}
	threaded := func(c string) bool { return c == "cpu" || c == "cpuset" || c == "pids" }
	if len(g.tasks) > 0 && g.parent != nil && slices.ContainsFunc(next, func(c string) bool { return !threaded(c) }) {
		return syscall.EBUSY // no internal processes, but for controllers of threads
	}
	slices.SortFunc(next, func(a, b string) int { return slices.Index(controllers, a) - slices.Index(controllers, b) })
	g.enabled = next
	for _, c := range g.children {
		if !slices.Contains(next, "cpuset") {
			c.cpus = cpuset.Set{}
		}
		if !slices.Contains(next, "cpu") {
			c.limit(m, containers.CPUMax{Period: containers.DefaultPeriod})
			c.weigh(m, 100)
		}
		m.cgroupFiles(c)
	}
	g.confine(m)
	m.migrate()
	return nil
}
