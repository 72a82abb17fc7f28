package daemon

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/powerd/powerd/containers"
	"github.com/powerd/powerd/internal/counters"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/units"
	"github.com/powerd/powerd/placement"
)

// A Seen is one reading of the machine. Nobody changes it afterwards.
type Seen struct {
	At       time.Time
	Hardware *Hardware
	// Busy and Total are each cpu's time so far, from /proc/stat.
	Busy, Total []time.Duration
	// Limits are the policies' limits in force, by their place in Hardware.
	Limits []Limits
	// Residency is the time each policy has spent at each of its domain's OPPs;
	// nil where the kernel does not count it.
	Residency [][]time.Duration
	// Containers are the cgroups of the classes, sorted.
	Containers []Contained
	Mount      string // of the cgroup hierarchy; empty if there is none
	// Meter is what the machine's meter shows; nil without one.
	Meter *energy.Reading
	// Counts are what the work of the containers that are counted did on each cpu since the
	// last reading.
	Counts map[containers.ID][]counters.Count
	// Problems are what could not be read, one line each.
	Problems []sysfs.Warning
}

// Limits are a policy's limits in force; 0 where unknown.
type Limits struct{ Min, Max units.Frequency }

// Contained is a container with its class and where its parent lets it run.
type Contained struct {
	containers.Container
	Class   string
	Allowed cpuset.Set
	// Delays tells that its class bears a delay.
	Delays bool
	notes
}

// Notes are attributes of a cgroup that say how it is to be placed; only the host's root
// can write them. They come from annotations of the same names without "trusted".
const (
	classNote    = "trusted.powerd.class"         // of the policy's classes
	slowdownNote = "trusted.powerd.slowdown"      // how much slower than untouched: 1.5
	tenantNote   = "trusted.powerd.tenant"        // who is kept apart from others
	budgetNote   = "trusted.powerd.energy-budget" // the most power, such as 2W
)

// notes are what a cgroup asks for by its own.
type notes struct {
	// Noted is a class instead of that of the cgroup's name, if not empty.
	Noted string
	// Slowdown, if not 0, is the container's own bound instead of its class'.
	Slowdown float64
	// Tenant is whose the container is.
	Tenant string
	// Budget, if not 0, is the most power that it may be charged.
	Budget units.Power
}

// noted reads a cgroup's notes. With an error those that can be used count.
func noted(fs sysfs.FS, dir string, policy placement.Policy) (n notes, err error) {
	read := func(name string) string {
		data, rerr := sysfs.Attribute(fs, dir, name)
		if err == nil {
			err = rerr
		}
		return string(data)
	}
	class, slowdown, budget := read(classNote), read(slowdownNote), read(budgetNote)
	n.Tenant = read(tenantNote)
	if class != "" && !slices.ContainsFunc(policy.Classes, func(c placement.Class) bool { return c.Name == class }) {
		return n, fmt.Errorf("it asks for class %q, which the policy has not: it stays in the class of its name", class)
	}
	n.Noted = class
	if slowdown != "" {
		v, perr := units.ParseSlowdown(slowdown)
		if perr != nil {
			return n, fmt.Errorf("it asks for a slowdown of %q: want a factor of 1 to 1000", slowdown)
		}
		n.Slowdown = v
	}
	if budget != "" {
		v, perr := units.ParseBudget(budget)
		if perr != nil || v <= 0 {
			return n, fmt.Errorf("it asks for an energy budget of %q: want a power such as 2W, or an energy per time such as 90J/60s", budget)
		}
		n.Budget = v
	}
	return n, err
}

// An observer keeps the files open that every tick reads.
type observer struct {
	fs     sysfs.FS
	open   map[string]sysfs.File
	used   map[string]bool
	buf    []byte
	absent map[string]bool // optional files that this machine does not have
	files  map[containers.ID]*cgroupFiles
	// online is the text of cpu/online at the last discovery.
	online   string
	hardware *Hardware
}

// cgroupFiles are the names of a cgroup's files.
type cgroupFiles struct {
	stat, cpus, max string
	// notes are the cgroup's; problem is why they cannot be used.
	notes
	problem error
}

func newObserver(m sysfs.FS) *observer {
	return &observer{fs: m, open: map[string]sysfs.File{}, used: map[string]bool{}, buf: make([]byte, 1<<16), absent: map[string]bool{}, files: map[containers.ID]*cgroupFiles{}}
}

func (o *observer) close() {
	for _, f := range o.open {
		f.Close()
	}
	clear(o.open)
}

// read returns a file's content, good until the next read.
func (o *observer) read(name string) ([]byte, error) {
	f, ok := o.open[name]
	if !ok {
		var err error
		if f, err = sysfs.Open(o.fs, name); err != nil {
			return nil, err
		}
		o.open[name] = f
	}
	o.used[name] = true
	data, err := f.ReadAt0(o.buf)
	if err != nil { // what it stood for may have been replaced: look it up anew
		f.Close()
		delete(o.open, name)
		if f, err = sysfs.Open(o.fs, name); err != nil {
			return nil, err
		}
		o.open[name] = f
		data, err = f.ReadAt0(o.buf)
	}
	return data, err
}

// sweep closes files that nobody has read since the last sweep.
func (o *observer) sweep() {
	clear(o.files)
	for name, f := range o.open {
		if !o.used[name] {
			f.Close()
			delete(o.open, name)
		}
	}
	clear(o.used)
}

// observe reads everything that a tick goes by.
func (d *Daemon) observe(now time.Time) *Seen {
	o := d.observer
	if d.ticks%64 == 0 {
		o.sweep()
	}
	s := &Seen{At: now}
	problem := func(file string, err error) {
		s.Problems = append(s.Problems, sysfs.Warning{File: file, Problem: err.Error()})
	}
	online, err := o.read("sys/devices/system/cpu/online")
	if err != nil {
		problem("sys/devices/system/cpu/online", err)
	}
	if text := string(online); o.hardware == nil || text != o.online {
		o.hardware, o.online = readHardware(d.fs, d.platform, d.measured), text
		d.rediscovered = true
		clear(o.absent)
	}
	s.Hardware = o.hardware
	// The meter goes first: one that averages would show powerd's own work.
	if m := s.Hardware.Meter; m != nil {
		if reading, err := m.Read(hot{d.fs, o}, now); err != nil {
			problem("meter", err)
		} else {
			s.Meter = &reading
		}
	}

	if data, err := o.readLarge("proc/stat"); err != nil {
		problem("proc/stat", err)
	} else if s.Busy, s.Total, err = parseStat(data); err != nil {
		problem("proc/stat", err)
	}
	s.Limits = make([]Limits, len(s.Hardware.Policies))
	s.Residency = make([][]time.Duration, len(s.Hardware.Policies))
	for i, p := range s.Hardware.Policies {
		for _, l := range []struct {
			file string
			to   *units.Frequency
		}{{"scaling_min_freq", &s.Limits[i].Min}, {"scaling_max_freq", &s.Limits[i].Max}} {
			name := p.Dir + "/" + l.file
			data, err := o.read(name)
			if err == nil {
				var v uint64
				v, err = sysfs.ParseUint(string(bytes.TrimSpace(data)))
				*l.to = units.Frequency(v)
			}
			if err != nil {
				problem(name, err)
			}
		}
		opps := s.Hardware.Machine.Domains[s.Hardware.domainOf[p.ID]].Curve.OPPs
		stats := p.Dir + "/stats/time_in_state"
		if o.absent[stats] {
			continue
		}
		data, err := o.read(stats)
		if sysfs.Absent(err) {
			o.absent[stats] = true
		}
		if err == nil {
			at, err := parseTimeInState(data, func(f units.Frequency) int {
				i, ok := slices.BinarySearchFunc(opps, f, func(o cpuOPP, f units.Frequency) int { return int(int64(o.Frequency) - int64(f)) })
				if !ok {
					return -1
				}
				return i
			}, len(opps))
			if err != nil {
				problem(stats, err)
			}
			s.Residency[i] = at
		}
	}
	d.observeContainers(s, problem)
	d.counting.observe(s, d.model.demand, problem)
	return s
}

// hot is the machine with its files held open.
type hot struct {
	sysfs.FS
	o *observer
}

func (h hot) ReadFile(name string) ([]byte, error) { return h.o.read(name) }

// readLarge is read for a file that grows with the machine.
func (o *observer) readLarge(name string) ([]byte, error) {
	data, err := o.read(name)
	for err != nil && !sysfs.Absent(err) && len(o.buf) < 1<<22 && strings.Contains(err.Error(), "longer than expected") {
		o.buf = make([]byte, 2*len(o.buf))
		data, err = o.read(name)
	}
	return data, err
}

func (d *Daemon) observeContainers(s *Seen, problem func(string, error)) {
	o := d.observer
	if d.mount == "" || d.rediscovered {
		d.mount, _ = containers.ReadMode(sysfs.NewReader(d.fs)).V2()
		if d.mount == "" {
			return
		}
	}
	s.Mount = d.mount
	tree := containers.NewTree(d.fs, d.mount)
	ids, err := tree.Find(d.globs)
	if err != nil {
		problem(d.mount, err)
	}
	allowed := map[string]cpuset.Set{}
	for _, id := range ids {
		class, ok := d.config.Class(id)
		if !ok {
			continue
		}
		c := Contained{Container: containers.Container{ID: id}, Class: class}
		file := o.files[id]
		if file == nil {
			file = &cgroupFiles{stat: tree.Path(id, "cpu.stat"), cpus: tree.Path(id, "cpuset.cpus"), max: tree.Path(id, "cpu.max")}
			file.notes, file.problem = noted(d.fs, path.Dir(file.stat), d.config.Policy)
			o.files[id] = file
		}
		if file.problem != nil && !sysfs.Absent(file.problem) {
			problem(path.Dir(file.stat), file.problem)
		}
		c.Class, c.notes = cmp.Or(file.Noted, c.Class), file.notes
		data, err := o.read(file.stat)
		if err != nil {
			if !sysfs.Absent(err) {
				problem(file.stat, err)
			}
			continue // gone
		}
		if c.Stat, err = containers.ParseCPUStat(string(data)); err != nil {
			problem(file.stat, err)
			continue
		}
		if data, err := o.read(file.cpus); err == nil {
			if set, err := cpuset.Parse(string(data)); err == nil {
				c.CPUs = &set
			} else {
				problem(file.cpus, err)
			}
		}
		if data, err := o.read(file.max); err == nil {
			if m, err := containers.ParseCPUMax(string(data)); err == nil {
				c.Max = &m
			} else {
				problem(file.max, err)
			}
		}
		c.Delays = d.config.Delays(c.Class)
		parent := path.Dir(string(id))
		if parent == "." {
			parent = ""
		}
		set, known := allowed[parent]
		if !known {
			set = s.Hardware.Topology.Online
			if data, err := o.read(tree.Path(containers.ID(parent), "cpuset.cpus.effective")); err == nil {
				if e, err := cpuset.Parse(string(data)); err == nil && !e.Empty() {
					set = e
				}
			}
			allowed[parent] = set
		}
		c.Allowed = set
		s.Containers = append(s.Containers, c)
	}
	if len(o.files) > len(ids) { // some are gone
		maps.DeleteFunc(o.files, func(id containers.ID, _ *cgroupFiles) bool { return !slices.Contains(ids, id) })
	}
}

// userHZ is the unit of /proc/stat on every Linux architecture of today.
const userHZ = 100

// maxTicks is 170 years of them: more is no time but a broken file.
const maxTicks = 1 << 39

// parseStat reads each cpu's busy and total time from /proc/stat, lines of
// "cpu3 user nice system idle iowait irq softirq steal guest guest_nice" in
// clock ticks. Guest time is in user time already.
//
// See Documentation/filesystems/proc.rst, 1.7.
func parseStat(data []byte) (busy, total []time.Duration, err error) {
	for len(data) > 0 {
		line := data
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			line, data = data[:i], data[i+1:]
		} else {
			data = nil
		}
		rest, ok := bytes.CutPrefix(line, []byte("cpu"))
		if !ok {
			break // the cpu lines come first
		}
		cpu, n := leadingUint(rest)
		if n == 0 {
			continue // the sum of all
		}
		if cpu > uint64(cpuset.MaxCPU) {
			return nil, nil, fmt.Errorf("cpu %d is above %d", cpu, cpuset.MaxCPU)
		}
		rest = rest[n:]
		var b, t uint64
		fields := 0
		for len(rest) > 0 && fields < 8 {
			rest = bytes.TrimLeft(rest, " ")
			v, n := leadingUint(rest)
			if n == 0 {
				break
			}
			if v > maxTicks {
				return nil, nil, fmt.Errorf("line %q has a time beyond any uptime", line)
			}
			rest = rest[n:]
			if fields != 3 && fields != 4 {
				b += v
			}
			t += v
			fields++
		}
		if fields < 4 {
			return nil, nil, fmt.Errorf("line %q has %d times, want at least 4", line, fields)
		}
		for uint64(len(busy)) <= cpu {
			busy, total = append(busy, 0), append(total, 0)
		}
		const tick = time.Second / userHZ
		busy[cpu], total[cpu] = time.Duration(b)*tick, time.Duration(t)*tick
	}
	if len(busy) == 0 {
		return nil, nil, fmt.Errorf("it has no cpu lines")
	}
	return busy, total, nil
}

// leadingUint reads the digits that b begins with, and how many there are.
func leadingUint(b []byte) (v uint64, n int) {
	for n < len(b) && n < 18 && b[n] >= '0' && b[n] <= '9' {
		v = 10*v + uint64(b[n]-'0')
		n++
	}
	return v, n
}

// parseTimeInState reads cpufreq's stats/time_in_state, lines of "1800000 12345":
// kHz and 10 ms units.
//
// See Documentation/cpu-freq/cpufreq-stats.rst.
func parseTimeInState(data []byte, index func(units.Frequency) int, n int) ([]time.Duration, error) {
	out := make([]time.Duration, n)
	for line := range strings.Lines(string(data)) {
		khz, ticks, ok := strings.Cut(strings.TrimSpace(line), " ")
		f, err := strconv.ParseUint(khz, 10, 64)
		t, err2 := strconv.ParseUint(strings.TrimSpace(ticks), 10, 63)
		if !ok || err != nil || err2 != nil || t > maxTicks {
			return nil, fmt.Errorf("line %q is not kHz and a time", line)
		}
		if i := index(units.Frequency(f)); i >= 0 {
			out[i] += time.Duration(t) * (time.Second / userHZ)
		}
	}
	return out, nil
}
