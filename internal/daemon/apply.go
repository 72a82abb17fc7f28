package daemon

import (
	"cmp"
	"errors"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/powerd/powerd/containers"
	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/placement"
)

// maxWrites bounds a tick's writes; what is left over goes out with the next.
const maxWrites = 2048

// glance is how many ticks pass between two looks at a cpu's latency bound.
const glance = 8

// A hold is a file that is not written for now.
type hold struct {
	// Foreign is the value somebody else gave it; empty for a file that failed.
	foreign string
	value   string // the value that failed
	problem string
	tries   int
	until   int // tick
}

// A Failure is a write that did not do what it should.
type Failure struct {
	sysfs.Write
	Problem string `json:"problem"`
	Tries   int    `json:"tries"`
}

// A Drift is a file that somebody else changed after powerd.
type Drift struct {
	File      string `json:"file"`
	Left      string `json:"left"`
	Found     string `json:"found"`
	Reclaimed bool   `json:"reclaimed"`
}

// difference returns the writes that bring the machine from what was seen to the
// plan, in an order in which every intermediate state is legal, and nothing where
// they agree already.
func (d *Daemon) difference(plan *placement.Plan, seen *Seen) []sysfs.Write {
	var out []sysfs.Write
	// min <= max holds after each of a policy's writes (cpufreq.Policy.Limits).
	for _, b := range plan.Bands {
		for _, id := range seen.Hardware.Machine.Domains[b.Domain].Policies {
			i := slices.IndexFunc(seen.Hardware.Policies, func(p cpufreq.Policy) bool { return p.ID == id })
			p, l := seen.Hardware.Policies[i], seen.Limits[i]
			if l.Min == 0 || l.Max == 0 || l.Min == b.Floor && l.Max == b.Ceiling {
				continue
			}
			p.ScalingMin, p.ScalingMax = &l.Min, &l.Max
			out = append(out, p.Limits(b.Floor, b.Ceiling)...)
		}
	}
	out = append(out, d.containerWrites(plan, seen)...)
	return append(out, d.idleWrites(plan, seen)...)
}

func (d *Daemon) containerWrites(plan *placement.Plan, seen *Seen) []sysfs.Write {
	var out []sysfs.Write
	tree := containers.NewTree(d.fs, seen.Mount)
	byID := make(map[string]*Contained, len(seen.Containers))
	enable := sysfs.NewReader(d.fs)
	enabled := map[string]bool{}
	for i := range seen.Containers {
		c := &seen.Containers[i]
		byID[string(c.ID)] = c
		// Without its files there is nothing to write yet: the next tick sees
		// what the controllers bring.
		parent := path.Dir(string(c.ID))
		if d.config.EnableControllers && (c.CPUs == nil || c.Max == nil) && !enabled[parent] {
			enabled[parent] = true
			writes, _ := tree.EnableWrites(enable, c.ID, "cpuset", "cpu")
			for _, w := range writes {
				if !slices.Contains(out, w) {
					out = append(out, w)
				}
			}
		}
	}
	for _, a := range plan.Assignments {
		c := byID[a.ID]
		if c == nil {
			continue
		}
		if c.CPUs != nil && (a.CPUs == nil || !a.CPUs.Equal(*c.CPUs)) {
			file := tree.Path(c.ID, "cpuset.cpus")
			want, ok := d.wanted(file, a.CPUs != nil, func() string { return a.CPUs.String() })
			if ok && want == "" { // with tasks in it the kernel does not clear it; this is as good until Restore
				want = c.Allowed.String()
			}
			if have := c.CPUs.String(); ok && want != have {
				out = append(out, sysfs.Write{File: file, Value: want})
			}
		}
		if c.Max != nil {
			file := tree.Path(c.ID, "cpu.max")
			want, ok := d.wanted(file, a.Limit != nil, func() string { return cpuMax(*a.Limit, d.period(a.Period)) })
			if have := c.Max.String(); ok && want != have {
				if a.Period > 0 && c.Max.Quota == 0 { // all periods begin with a tick
					if d.between {
						continue
					}
					out = append(out, sysfs.Write{File: file, Value: begin})
				}
				out = append(out, sysfs.Write{File: file, Value: want})
			}
		}
	}
	return out
}

// wanted is a file's value in the plan; one the plan says nothing about goes back
// to its first value if powerd has changed it.
func (d *Daemon) wanted(file string, planned bool, value func() string) (string, bool) {
	if planned {
		return value(), true
	}
	return d.first(file)
}

// first is a file's value before powerd changed it; false if it has not.
func (d *Daemon) first(file string) (string, bool) {
	if d.journal == nil {
		return "", false
	}
	return d.journal.First(file)
}

// limits is a container's cpu.max in cpus as powerd has set it, and as it was before; 0
// is no limit.
func (d *Daemon) limits(c Contained) (limit, before float64) {
	if c.Max == nil {
		return 0, 0
	}
	now, _ := c.Max.CPUs()
	first, written := d.first(containers.NewTree(d.fs, d.mount).Path(c.ID, "cpu.max"))
	if !written {
		return 0, now
	}
	if m, err := containers.ParseCPUMax(first); err == nil {
		before, _ = m.CPUs()
	}
	if now == before { // given back
		return 0, before
	}
	return now, before
}

// cpuMax prints a limit in cpus as cpu.max; a period of 0 is the kernel's default.
func cpuMax(limit placement.Limit, period time.Duration) string {
	cpus := float64(limit)
	m := containers.CPUMax{Period: containers.DefaultPeriod}
	if !math.IsInf(cpus, 1) {
		m.Period = cmp.Or(period, m.Period)
		m.Quota = max(containers.MinQuota, time.Duration(math.Round(cpus*float64(m.Period))).Round(time.Microsecond))
	}
	return m.String()
}

// idleWrites bounds exit latencies per cpu and switches states off. In
// pm_qos_resume_latency_us 0 is no bound and "n/a" is none at all to bear.
//
// See Documentation/ABI/testing/sysfs-devices-power.
//
// A file that holds what is wanted by the journal is read again only every so many
// ticks: who else would change it is rare, and reading all of a large machine's
// costs as much as the rest of the tick.
func (d *Daemon) idleWrites(plan *placement.Plan, seen *Seen) []sysfs.Write {
	var out []sysfs.Write
	bound := map[cpuset.CPU]string{}
	for _, b := range plan.Idle {
		v := strconv.FormatInt(b.MaxExit.Microseconds(), 10)
		if b.MaxExit < time.Microsecond {
			v = "n/a"
		}
		for c := range b.CPUs.All() {
			bound[c] = v
		}
	}
	idle := len(plan.Idle) > 0 || len(plan.DisableIdle) > 0 || d.journal != nil && d.journal.Pending() > 0
	if !idle {
		return nil
	}
	for c := range seen.Hardware.Topology.Online.All() {
		file := cpuFile(c, "power/pm_qos_resume_latency_us")
		v, has := bound[c]
		if want, ok := d.wanted(file, has, func() string { return v }); ok {
			if d.journal != nil && (int(c)+d.ticks)%glance != 0 {
				if left, written := d.journal.Left(file); written && left == want {
					continue
				}
			}
			if data, err := d.observer.read(file); err == nil && strings.TrimSpace(string(data)) != want {
				out = append(out, sysfs.Write{File: file, Value: want})
			}
		}
	}
	if seen.Hardware.Idle == nil {
		return out
	}
	for _, t := range seen.Hardware.Idle.Tables {
		for _, s := range t.States {
			off := s.Name != nil && slices.Contains(plan.DisableIdle, *s.Name)
			for c := range t.CPUs.All() {
				file := cstates.StateDir(c, s.Index) + "/disable"
				if want, ok := d.wanted(file, off, func() string { return "1" }); ok {
					if data, err := d.observer.read(file); err == nil && strings.TrimSpace(string(data)) != want {
						out = append(out, sysfs.Write{File: file, Value: want})
					}
				}
			}
		}
	}
	return out
}

// An Outcome is what applying came to.
type Outcome struct {
	Done     []sysfs.Write `json:"done"`
	Failures []Failure     `json:"failures"`
	Drift    []Drift       `json:"drift"`
	// Left is how many writes wait for the next tick.
	Left int `json:"left"`
}

// forget drops what the journal holds of cgroups that are gone, or are others of
// the same name now (their usage starts again).
func (d *Daemon) forget(last, seen *Seen) {
	if d.journal == nil || last == nil || seen.Mount == "" {
		return
	}
	usage := make(map[containers.ID]time.Duration, len(seen.Containers))
	for _, c := range seen.Containers {
		usage[c.ID] = c.Stat.Usage
	}
	for _, c := range last.Containers {
		if now, ok := usage[c.ID]; ok && now >= c.Stat.Usage {
			continue
		}
		dir := path.Join(seen.Mount, string(c.ID))
		if _, err := d.fs.ReadFile(dir + "/cpu.stat"); err == nil && usage[c.ID] == 0 {
			if _, ok := usage[c.ID]; !ok {
				continue // it is there: only this reading of it failed
			}
		}
		d.journal.Forget(dir) //nolint:errcheck // at worst Restore finds nothing there
		for file := range d.held {
			if strings.HasPrefix(file, dir+"/") {
				delete(d.held, file)
			}
		}
	}
}

// apply writes, through the journal, what is not held back, and looks at what
// took. A write that fails is tried again after 1, 2, 4 ... 64 ticks.
func (d *Daemon) apply(changes []sysfs.Write) Outcome {
	d.ticks++
	rediscovered := d.rediscovered
	d.rediscovered = false
	var out Outcome
	if d.journal == nil {
		for _, w := range changes {
			d.note(&out, w, d.dry.WriteFile(w.File, []byte(w.Value)), w.Value)
		}
		return out
	}
	var todo []sysfs.Write
	wanted := make(map[string]bool, len(changes))
	for _, w := range changes {
		wanted[w.File] = true
		if d.free(&out, w, rediscovered) {
			todo = append(todo, w)
		}
	}
	for file, h := range d.held {
		if !wanted[file] && h.until < d.ticks { // it holds what it should again
			delete(d.held, file)
		}
	}
	if len(todo) > maxWrites {
		out.Left = len(todo) - maxWrites
		todo = todo[:maxWrites]
	}
	// One fsync saves the first values of all. A file that cannot be read must
	// not be written; then each is saved by itself, and the others go on.
	files := make([]string, len(todo))
	for i, w := range todo {
		files[i] = w.File
	}
	_ = d.journal.Save(files...) //nolint:errcheck // each WriteFile below saves, and fails, by itself
	for _, w := range todo {
		err := d.journal.WriteFile(w.File, []byte(w.Value))
		left, _ := d.journal.Left(w.File)
		if path.Base(w.File) == "cgroup.subtree_control" {
			left = enabledOf(w.Value, left)
		}
		d.note(&out, w, err, left)
	}
	return out
}

// enabledOf turns the content of cgroup.subtree_control after a write of changes
// into what would have been written for it, so that the two can be compared.
func enabledOf(changes, now string) string {
	have := strings.Fields(now)
	for _, c := range strings.Fields(changes) {
		if !slices.Contains(have, strings.TrimPrefix(c, "+")) {
			return now
		}
	}
	return changes
}

// free reports whether a file may be written now, and notes drift.
func (d *Daemon) free(out *Outcome, w sysfs.Write, rediscovered bool) bool {
	h := d.held[w.File]
	if h != nil && h.foreign == "" {
		if h.value == w.Value && d.ticks < h.until {
			out.Failures = append(out.Failures, Failure{w, h.problem, h.tries})
			return false
		}
		return true
	}
	left, written := d.journal.Left(w.File)
	if !written || path.Base(w.File) == "cgroup.subtree_control" {
		return true
	}
	data, err := d.fs.ReadFile(w.File)
	if err != nil {
		return true // writing will say what is wrong
	}
	found := strings.TrimRight(string(data), "\n")
	if found == left {
		return true
	}
	if rediscovered && strings.HasPrefix(w.File, "sys/devices/system/cpu/") {
		// Cpus came or went: what their files lost, the kernel took.
		if err := d.journal.Adopt(w.File, found); err != nil {
			out.Failures = append(out.Failures, Failure{w, err.Error(), 1})
			return false
		}
		return true
	}
	if h == nil || h.foreign != found {
		d.counters.Drift++
	}
	out.Drift = append(out.Drift, Drift{w.File, left, found, d.config.Reclaim})
	if d.config.Reclaim {
		return true
	}
	d.held[w.File] = &hold{foreign: found}
	return false
}

// note records what a write came to.
func (d *Daemon) note(out *Outcome, w sysfs.Write, err error, left string) {
	if err == nil && left != w.Value {
		err = errors.New("it was taken but reads " + strconv.Quote(left))
	}
	if err == nil {
		delete(d.held, w.File)
		d.counters.Writes++
		out.Done = append(out.Done, w)
		return
	}
	h := d.held[w.File]
	if h == nil || h.value != w.Value {
		h = &hold{value: w.Value}
		d.held[w.File] = h
	}
	h.problem = err.Error()
	h.until = d.ticks + 1<<min(h.tries, 6)
	h.tries++
	d.counters.Failures++
	out.Failures = append(out.Failures, Failure{w, h.problem, h.tries})
}
