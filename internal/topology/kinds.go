package topology

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/sysfs"
)

// Kinds are the kinds of core of a machine.
type Kinds struct {
	// Basis tells the signal that the cut rests on.
	Basis  string `json:"basis"`
	Groups []Kind `json:"groups"`
	// ByMIDR and ByPMU are the other cuts one can defend, where they differ.
	ByMIDR []Kind `json:"by_midr,omitempty"`
	ByPMU  []Kind `json:"by_pmu,omitempty"`
}

// A Kind is the online cpus of one kind of core.
type Kind struct {
	CPUs  cpuset.Set `json:"cpus"`
	Label string     `json:"label"`
	// Rank orders kinds; 0 is the least capable.
	Rank int `json:"rank"`
}

// Of returns the kind of a cpu, nil if it has none.
func (k *Kinds) Of(c cpuset.CPU) *Kind {
	if k != nil {
		for i := range k.Groups {
			if k.Groups[i].CPUs.Contains(c) {
				return &k.Groups[i]
			}
		}
	}
	return nil
}

// Signals are what the kernel says that tells kinds of core apart: for each file
// the distinct values, ascending, with the online cpus that have them.
type Signals struct {
	Capacity    []Signal[uint64]      `json:"cpu_capacity,omitempty"`
	MaxKHz      []Signal[uint64]      `json:"cpuinfo_max_khz,omitempty"`
	BaseKHz     []Signal[uint64]      `json:"base_khz,omitempty"`
	MIDR        []Signal[string]      `json:"midr_or_part,omitempty"`
	HighestPerf []Signal[uint64]      `json:"cppc_highest_perf,omitempty"`
	PMU         map[string]cpuset.Set `json:"pmu,omitempty"`
}

// A Signal is the cpus that have one value.
type Signal[T cmp.Ordered] struct {
	Value T          `json:"value"`
	CPUs  cpuset.Set `json:"cpus"`
}

func signals[T cmp.Ordered](values map[cpuset.CPU]T) []Signal[T] {
	sets := map[T]cpuset.Set{}
	for c, v := range values {
		sets[v] = sets[v].Union(cpuset.Of(c))
	}
	var out []Signal[T]
	for _, v := range slices.Sorted(maps.Keys(sets)) {
		out = append(out, Signal[T]{v, sets[v]})
	}
	return out
}

// pmus are the event sources of Intel's hybrid processors, least capable first.
// See Documentation/admin-guide/perf/ and arch/x86/events/intel/core.c.
var pmus = []struct{ name, label string }{
	{"cpu_lowpower", "LP-E (cpu_lowpower)"},
	{"cpu_atom", "E (cpu_atom)"},
	{"cpu_core", "P (cpu_core)"},
}

func readSignals(r *sysfs.Reader, online cpuset.Set, info cpuInfo) *Signals {
	capacity, maxKHz, baseKHz, perf := map[cpuset.CPU]uint64{}, map[cpuset.CPU]uint64{}, map[cpuset.CPU]uint64{}, map[cpuset.CPU]uint64{}
	midr := map[cpuset.CPU]string{}
	policy := policyDirs(r)
	for c := range online.All() {
		dir, ok := policy[c]
		if !ok {
			dir = cpuPath(c, "cpufreq")
		}
		note(capacity, c, r.Uint(cpuPath(c, "cpu_capacity")))
		note(maxKHz, c, r.Uint(dir+"/cpuinfo_max_freq"))
		note(baseKHz, c, r.Uint(dir+"/base_frequency"))
		note(perf, c, r.Uint(cpuPath(c, "acpi_cppc/highest_perf")))
		note(midr, c, r.Text(cpuPath(c, "regs/identification/midr_el1")))
	}
	if len(midr) == 0 {
		for c, part := range info.part {
			if online.Contains(c) {
				midr[c] = part
			}
		}
	}
	s := &Signals{
		Capacity: signals(capacity), MaxKHz: signals(maxKHz), BaseKHz: signals(baseKHz),
		MIDR: signals(midr), HighestPerf: signals(perf),
	}
	for _, pmu := range pmus {
		if cpus := sysfs.Value(r, "sys/devices/"+pmu.name+"/cpus", cpuset.Parse); cpus != nil {
			if s.PMU == nil {
				s.PMU = map[string]cpuset.Set{}
			}
			s.PMU[pmu.name] = cpus.Intersect(online)
		}
	}
	if s.PMU == nil && len(capacity)+len(maxKHz)+len(baseKHz)+len(midr)+len(perf) == 0 {
		return nil
	}
	return s
}

func note[T any](values map[cpuset.CPU]T, c cpuset.CPU, v *T) {
	if v != nil {
		values[c] = *v
	}
}

// policyDirs maps cpus to their cpufreq policy, whose attributes a cpu of the
// same clock shares.
func policyDirs(r *sysfs.Reader) map[cpuset.CPU]string {
	dirs := map[cpuset.CPU]string{}
	for _, n := range sysfs.Numbered(r.Names(cpuDir+"/cpufreq"), "policy") {
		dir := cpuDir + "/cpufreq/policy" + strconv.Itoa(n)
		cpus := sysfs.Value(r, dir+"/related_cpus", func(s string) (cpuset.Set, error) {
			return cpuset.Parse(strings.Join(strings.Fields(s), ",")) // "0 1 2 3"
		})
		if cpus != nil {
			for c := range cpus.All() {
				dirs[c] = dir
			}
		}
	}
	return dirs
}

// How far apart two values must be, relative to the larger, to mean different
// cores and not the same core with a better place on the wafer. Turbo Boost Max
// and AMD's preferred cores differ by up to a tenth in frequency; an efficiency
// core is slower by a quarter or more. Capacity is set per design, so that
// little suffices.
const (
	frequencyGap = 0.2
	capacityGap  = 0.03
)

// kinds judges which kinds of core there are. The signals, best first: Intel's
// event sources, which name the kind; cpu_capacity; the MIDR or part number;
// a wide gap in the highest frequency. A signal counts only if every online cpu
// has it. CPPC's highest_perf and base_frequency are not asked: they also differ
// among equal cores (preferred cores, Speed Select).
func (t *Topology) kinds() *Kinds {
	s := t.Signals
	if s == nil {
		return t.uniform("one core type")
	}
	byPMU := t.byPMU()
	byMIDR := t.byMIDR()
	k := t.uniform("one core type")
	if covers(s.Capacity, t.Online) {
		k.Basis = "one core type (cpu_capacity equal)"
	}
	switch capacity, speed := clusters(s.Capacity, capacityGap), clusters(s.MaxKHz, frequencyGap); {
	case len(byPMU) > 1:
		k.Basis = "sys/devices/cpu_core/cpus and cpu_atom/cpus"
		k.Groups = t.splitLowPower(byPMU)
		if len(k.Groups) > len(byPMU) {
			k.Basis += "; some of cpu_atom lack the last-level cache of the others"
			k.ByPMU = byPMU
		}
	case len(capacity) > 1 && covers(s.Capacity, t.Online):
		values := make([]string, len(s.Capacity))
		for i, c := range s.Capacity {
			values[i] = strconv.FormatUint(c.Value, 10)
		}
		k.Basis = "cpu_capacity (" + strings.Join(values, "/") + ")"
		k.Groups = named(capacity)
		if len(byMIDR) > 1 && !sameCut(byMIDR, k.Groups) {
			k.ByMIDR = byMIDR
		}
	case len(byMIDR) > 1:
		k.Basis = "MIDR or cpu part, ordered by cpuinfo_max_freq"
		k.Groups = byMIDR
	case len(speed) > 1 && covers(s.MaxKHz, t.Online):
		k.Basis = fmt.Sprintf("cpuinfo_max_freq differs by more than %.0f %%", frequencyGap*100)
		k.Groups = named(speed)
	}
	return k
}

func (t *Topology) uniform(basis string) *Kinds {
	return &Kinds{Basis: basis, Groups: []Kind{{CPUs: t.Online, Label: "uniform"}}}
}

func covers[T cmp.Ordered](signals []Signal[T], online cpuset.Set) bool {
	var all cpuset.Set
	for _, s := range signals {
		all = all.Union(s.CPUs)
	}
	return !all.Empty() && all.Equal(online)
}

func sameCut(a, b []Kind) bool {
	return slices.EqualFunc(a, b, func(x, y Kind) bool { return x.CPUs.Equal(y.CPUs) })
}

// clusters joins neighbouring values that are nearer than gap.
func clusters(signals []Signal[uint64], gap float64) []cpuset.Set {
	var out []cpuset.Set
	for i, s := range signals {
		if i > 0 && float64(s.Value-signals[i-1].Value) <= gap*float64(s.Value) {
			out[len(out)-1] = out[len(out)-1].Union(s.CPUs)
			continue
		}
		out = append(out, s.CPUs)
	}
	return out
}

// named gives kinds, least capable first, the names arm's world has for them.
func named(sets []cpuset.Set) []Kind {
	labels := []string{"little", "big", "prime"}
	out := make([]Kind, len(sets))
	for i, s := range sets {
		label := "kind " + strconv.Itoa(i)
		if len(sets) <= len(labels) {
			label = labels[i]
		}
		out[i] = Kind{s, label, i}
	}
	return out
}

func (t *Topology) byPMU() []Kind {
	var out []Kind
	var all cpuset.Set
	for _, pmu := range pmus {
		cpus := t.Signals.PMU[pmu.name]
		if cpus.Empty() || cpus.Overlaps(all) {
			continue
		}
		all = all.Union(cpus)
		out = append(out, Kind{cpus, pmu.label, len(out)})
	}
	if !all.Equal(t.Online) {
		return nil
	}
	return out
}

// splitLowPower sets apart the efficiency cores that sit on another tile, beside
// the last-level cache that the others share with the performance cores (Meteor
// Lake's cpu_atom holds both).
func (t *Topology) splitLowPower(kinds []Kind) []Kind {
	var reach cpuset.Set // cpus that share a last-level cache with the most capable
	for _, l := range t.LLCs {
		if l.CPUs.Overlaps(kinds[len(kinds)-1].CPUs) {
			reach = reach.Union(l.CPUs)
		}
	}
	var out []Kind
	for _, k := range kinds {
		far := k.CPUs.Minus(reach)
		if !far.Empty() && !far.Equal(k.CPUs) {
			out = append(out, Kind{far, "LP-E (no shared last-level cache)", len(out)})
			k.CPUs = k.CPUs.Minus(far)
		}
		k.Rank = len(out)
		out = append(out, k)
	}
	return out
}

// parts names arm's cores by implementer and part, in order of capability:
// where nothing else tells, an earlier one is the less capable.
// See arch/arm64/include/asm/cputype.h.
var parts = []struct {
	id   uint32
	name string
}{
	{0x41c05, "A5"}, {0x41c07, "A7"}, {0x41d04, "A35"}, {0x41d03, "A53"}, {0x41d05, "A55"}, {0x41d46, "A510"}, {0x41d80, "A520"},
	{0x41c09, "A9"}, {0x41c0d, "A12"}, {0x41c0e, "A17"}, {0x41c0f, "A15"}, {0x41d07, "A57"}, {0x41d08, "A72"}, {0x41d09, "A73"},
	{0x41d0a, "A75"}, {0x41d0b, "A76"}, {0x41d0d, "A77"}, {0x41d41, "A78"}, {0x41d47, "A710"}, {0x41d4d, "A715"}, {0x41d81, "A720"},
	{0x41d44, "X1"}, {0x41d48, "X2"}, {0x41d4e, "X3"}, {0x41d82, "X4"},
}

// parsePart takes implementer and part from a MIDR, "0x00000000411fd461", or
// from cpuinfo's "0x41:0xc0f". Variant and revision do not make another kind.
func parsePart(s string) (id uint32, ok bool) {
	if implementer, part, ok := strings.Cut(s, ":"); ok {
		i, err1 := strconv.ParseUint(implementer, 0, 8)
		p, err2 := strconv.ParseUint(part, 0, 12)
		return uint32(i<<12 | p), err1 == nil && err2 == nil
	}
	v, err := strconv.ParseUint(s, 0, 64)
	return uint32(v>>24&0xff<<12 | v>>4&0xfff), err == nil
}

// byMIDR cuts by part number, in order of the highest frequency, then of parts.
func (t *Topology) byMIDR() []Kind {
	if !covers(t.Signals.MIDR, t.Online) {
		return nil
	}
	sets := map[uint32]cpuset.Set{}
	for _, s := range t.Signals.MIDR {
		id, ok := parsePart(s.Value)
		if !ok {
			return nil
		}
		sets[id] = sets[id].Union(s.CPUs)
	}
	speed := func(id uint32) uint64 {
		for _, s := range slices.Backward(t.Signals.MaxKHz) {
			if s.CPUs.Overlaps(sets[id]) {
				return s.Value
			}
		}
		return 0
	}
	known := func(id uint32) int {
		return slices.IndexFunc(parts, func(p struct {
			id   uint32
			name string
		}) bool {
			return p.id == id
		})
	}
	ids := slices.SortedFunc(maps.Keys(sets), func(a, b uint32) int {
		return cmp.Or(cmp.Compare(speed(a), speed(b)), cmp.Compare(known(a), known(b)), cmp.Compare(a, b))
	})
	out := make([]Kind, len(ids))
	for i, id := range ids {
		label := fmt.Sprintf("0x%03x", id&0xfff)
		if n := known(id); n >= 0 {
			label += " " + parts[n].name
		}
		out[i] = Kind{sets[id], label, i}
	}
	return out
}
