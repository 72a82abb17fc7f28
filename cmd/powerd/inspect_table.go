//go:build !powerd_oci

package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/powerd/powerd/containers"
	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/topology"
	"github.com/powerd/powerd/internal/units"
)

// maxRows is how many rows of one thing a person wants to see; the rest is
// counted. JSON has them all.
const maxRows = 8

// sections is m for people: what is equal is said once.
func (m *machine) sections() []section {
	return []section{
		m.cpuSection(), m.kindSection(), m.nodeSection(), m.frequencySection(), m.idleSection(),
		m.energySection(), m.acpiSection(), m.thermalSection(), m.cgroupSection(), m.guestSection(), m.warningSection(),
	}
}

func (m *machine) cpuSection() section {
	s := section{title: "cpus"}
	if m.CPUs.IsZero() {
		return s
	}
	if m.Model != nil {
		s.row(*m.Model)
	}
	line := "online " + m.Online.String()
	if !m.Offline.Empty() {
		line += ", offline " + m.Offline.String()
	}
	s.row(line)
	var parts []string
	if m.PackageCount != nil {
		parts = append(parts, count(*m.PackageCount, "package"))
	}
	if len(m.Dies) > len(m.Packages) {
		parts = append(parts, count(len(m.Dies), "die"))
	}
	if n := len(m.Cores); n > 0 {
		core := count(n, "core")
		if t := m.ThreadsPerCore; t.Min == t.Max {
			core += fmt.Sprintf(" of %s", count(t.Max, "thread"))
		} else {
			core += fmt.Sprintf(" of %d to %d threads", t.Min, t.Max)
		}
		parts = append(parts, core)
	}
	if len(m.LLCs) > 0 {
		parts = append(parts, llcs(m.LLCs))
	}
	if len(parts) > 0 {
		s.row(strings.Join(parts, ", "))
	}
	return s
}

// llcs prints "2 L3 of 20 cpus", by level and size.
func llcs(caches []topology.LLC) string {
	var order []string
	n := map[string]int{}
	for _, l := range caches {
		name := l.From // index3, where the kernel gives no level
		if l.Level != nil {
			name = "L" + strconv.FormatUint(*l.Level, 10)
		}
		name += " of " + count(l.CPUs.Len(), "cpu")
		if n[name] == 0 {
			order = append(order, name)
		}
		n[name]++
	}
	for i, name := range order {
		order[i] = strconv.Itoa(n[name]) + " " + name
	}
	return strings.Join(order, " and ")
}

func (m *machine) kindSection() section {
	s := section{title: "kinds"}
	if m.Kinds == nil || len(m.Kinds.Groups) < 2 {
		return s
	}
	for _, k := range slices.Backward(m.Kinds.Groups) {
		s.row(k.Label, cpuList(k.CPUs))
	}
	s.row("told by " + m.Kinds.Basis)
	return s
}

func (m *machine) nodeSection() section {
	s := section{title: "numa"}
	for _, n := range m.Nodes {
		cpus := "memory only"
		if !n.CPUs.Empty() {
			cpus = cpuList(n.CPUs)
		}
		memory := ""
		if n.MemTotal != nil {
			memory = fmt.Sprintf("%.1f GiB", float64(*n.MemTotal)/(1<<20))
		}
		s.row("node"+strconv.Itoa(int(n.ID)), cpus, memory)
	}
	return s.cut()
}

func (m *machine) frequencySection() section {
	s := section{title: "cpufreq"}
	if m.CPUFreq == nil || len(m.CPUFreq.Policies) == 0 {
		if !m.CPUs.IsZero() {
			s.row("none: the clock cannot be set")
		}
		return s
	}
	var order []string
	cpus := map[string]cpuset.Set{}
	policies := map[string]int{}
	cells := map[string][]string{}
	for _, p := range m.CPUFreq.Policies {
		c := policyCells(p)
		key := strings.Join(c, "\x00")
		if policies[key] == 0 {
			order = append(order, key)
		}
		policies[key]++
		cpus[key] = cpus[key].Union(p.CPUs())
		cells[key] = c
	}
	for _, key := range order {
		who := cpuList(cpus[key])
		if cpus[key].Len() > 1 {
			if n := policies[key]; n == 1 {
				who += ", one clock"
			} else {
				who += fmt.Sprintf(", %d policies", n)
			}
		}
		s.row(append([]string{who}, cells[key]...)...)
	}
	s = s.cut()
	var switches []string
	if b := m.CPUFreq.Boost; b != nil {
		switches = append(switches, fmt.Sprintf("boost %d", *b))
	}
	for name, driver := range map[string]map[string]string{"intel_pstate": m.CPUFreq.IntelPState, "amd_pstate": m.CPUFreq.AMDPState} {
		for _, k := range slices.Sorted(maps.Keys(driver)) {
			if k == "status" || k == "no_turbo" || k == "prefcore" {
				switches = append(switches, name+" "+k+" "+driver[k])
			}
		}
	}
	if len(switches) > 0 {
		s.row(strings.Join(switches, ", "))
	}
	if w := m.CPUFreq.Without; w != nil {
		s.row("no policy: " + cpuList(*w))
	}
	return s
}

// policyCells prints driver, governor, limits in force, what the hardware can do
// and how many OPPs that is.
func policyCells(p cpufreq.Policy) []string {
	if p.Inactive {
		return []string{"offline"}
	}
	how := text(p.Driver) + "/" + text(p.Governor)
	if p.EPP != nil {
		how += "/" + *p.EPP
	}
	band := span(p.ScalingMin, p.ScalingMax) + " MHz"
	if hw := span(p.CPUInfoMin, p.CPUInfoMax); p.CPUInfoMax != nil && hw != span(p.ScalingMin, p.ScalingMax) {
		band += " of " + hw
	}
	opps := "any clock"
	if n := len(p.Available) + len(p.BoostOPPs); n > 0 {
		opps = count(n, "OPP")
		if b := len(p.BoostOPPs); b > 0 {
			opps += fmt.Sprintf(" (%d boost)", b)
		}
	}
	base := ""
	if p.Base != nil {
		base = "base " + mhz(p.Base)
	}
	if p.LowestNonlinear != nil {
		base = "lowest non-linear " + mhz(p.LowestNonlinear)
	}
	return []string{how, band, opps, base}
}

func (m *machine) idleSection() section {
	s := section{title: "cpuidle"}
	if m.CPUIdle == nil {
		return s
	}
	s.row("driver " + text(m.CPUIdle.Driver) + ", governor " + text(m.CPUIdle.Governor))
	for _, t := range m.CPUIdle.Tables {
		var states []string
		for _, st := range t.States {
			states = append(states, idleState(st))
		}
		s.row(cpuList(t.CPUs), strings.Join(states, ", "))
	}
	s = s.cut()
	if w := m.CPUIdle.Without; w != nil {
		s.row("no states: " + cpuList(*w))
	}
	return s
}

// idleState prints name, exit latency and residency in microseconds, "C6
// 133/600us", with a mark if it is disabled.
func idleState(st cstates.State) string {
	out := text(st.Name)
	if l := st.Latency; l != nil && *l > 0 {
		out += " " + strconv.FormatUint(*l, 10)
		if st.Residency != nil {
			out += "/" + strconv.FormatUint(*st.Residency, 10)
		}
		out += "us"
	}
	if st.Disable != nil && *st.Disable != 0 {
		out += " (disabled)"
	}
	return out
}

func (m *machine) energySection() section {
	s := section{title: "energy"}
	var chosen []string
	if m.Energy.Best != nil {
		chosen = m.Energy.Best.Names
	}
	for _, meter := range m.Energy.Meters {
		note := ""
		switch {
		case slices.Contains(chosen, meter.Name):
			note = "used"
		case meter.DuplicateOf != "":
			note = "counts the same as " + meter.DuplicateOf
		case meter.Unusable != "":
			note = meter.Unusable
		}
		what := meter.Scope + " " + string(meter.Kind)
		if meter.Range != nil {
			what += ", wraps at " + units.Cost(*meter.Range).String()
		}
		s.row(meter.Name, what, note)
	}
	s = s.cut()
	switch {
	case m.Energy.Best != nil:
		s.row("best: " + m.Energy.Best.Why)
	case !m.CPUs.IsZero():
		s.row("no usable meter: energy can only be modelled")
	}
	for _, p := range m.Supplies {
		s.row(supply(p))
	}
	return s
}

func supply(p energy.Supply) string {
	out := p.ID + ": " + strings.ToLower(text(p.Type))
	switch {
	case p.Online != nil && *p.Online != 0:
		out += ", online"
	case p.Online != nil:
		out += ", offline"
	}
	if p.Status != nil {
		out += ", " + strings.ToLower(*p.Status)
	}
	if p.Capacity != nil {
		out += fmt.Sprintf(", %d %%", *p.Capacity)
	}
	if p.PowerNow != nil {
		out += ", " + units.Power(*p.PowerNow).String()
	}
	return out
}

func (m *machine) thermalSection() section {
	s := section{title: "thermal"}
	if m.Thermal == nil {
		return s
	}
	for _, z := range m.Thermal.Zones {
		temp := "-"
		if z.Temp != nil {
			temp = fmt.Sprintf("%.1f C", float64(*z.Temp)/1000)
		}
		s.row(text(z.Type), temp)
	}
	return s.cut()
}

func (m *machine) cgroupSection() section {
	s := section{title: "cgroup"}
	if m.Cgroup == nil {
		return s
	}
	line := string(m.Cgroup.Mode)
	if dir, ok := m.Cgroup.V2(); ok {
		if m.Cgroup.Mode != containers.V2 {
			line += ", v2"
		}
		line += " at /" + dir
		if c := m.Cgroup.V2Controllers; c != nil && *c != "" {
			line += ": " + *c
		}
	}
	s.row(line)
	return s
}

func (m *machine) guestSection() section {
	s := section{title: "guest"}
	if m.Hypervisor == nil {
		return s
	}
	s.row("under " + m.Hypervisor.Name + " (" + m.Hypervisor.Evidence + ")")
	for _, missing := range m.Hypervisor.Missing {
		s.row("no " + missing)
	}
	return s
}

func (m *machine) warningSection() section {
	s := section{title: "warnings"}
	for _, w := range m.Warnings {
		s.row(w.String())
	}
	return s.cut()
}

// cut leaves as many rows as a person wants to see.
func (s section) cut() section {
	if n := len(s.rows) - maxRows; n > 0 {
		s.rows = append(s.rows[:maxRows:maxRows], []string{fmt.Sprintf("and %d more, see -o json", n)})
	}
	return s
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return strconv.Itoa(n) + " " + what
}

func cpuList(s cpuset.Set) string {
	if s.Len() == 1 {
		return "cpu " + s.String()
	}
	return "cpus " + s.String()
}

func text(s *string) string {
	if s == nil || *s == "" {
		return "-"
	}
	return *s
}

func mhz(f *units.Frequency) string {
	if f == nil {
		return "?" // "-" stands between two
	}
	return strconv.FormatFloat(f.MHz(), 'f', -1, 64)
}

func span(low, high *units.Frequency) string { return mhz(low) + "-" + mhz(high) }

func (m *machine) acpiSection() section {
	s := section{title: "firmware"}
	for _, file := range slices.Sorted(maps.Keys(m.ACPI.FADT)) {
		f := m.ACPI.FADT[file]
		s.row(file, fmt.Sprintf("FADT revision %d, profile %s, C2 %s, C3 %s", f.Revision, f.ProfileName, worst(f.C2, f.C2Latency), worst(f.C3, f.C3Latency)))
	}
	for _, p := range m.ACPI.PSS {
		top, bottom := p.States[0], p.States[len(p.States)-1]
		s.row(p.Scope, fmt.Sprintf("_PSS: %d states, %d MHz at %d mW to %d MHz at %d mW", len(p.States), top.CoreMHz, top.PowerMW, bottom.CoreMHz, bottom.PowerMW))
	}
	s = s.cut() // a server has one for each of its cpus
	var states []string
	for _, g := range slices.Sorted(maps.Keys(m.ACPI.Offered)) {
		for _, o := range m.ACPI.Offered[g] {
			if o.State != g {
				states = append(states, g+"/"+o.State)
			}
		}
	}
	if len(states) > 0 {
		s.row("states", strings.Join(states, " "))
	}
	if m.ACPI.PlatformProfile != nil {
		s.row("profile", fmt.Sprintf("%s of %s", *m.ACPI.PlatformProfile, strings.Join(m.ACPI.Profiles, ", ")))
	}
	if m.ACPI.Supply != nil {
		s.row("power from", *m.ACPI.Supply)
	}
	return s
}

func worst(supported bool, us uint16) string {
	if !supported {
		return "none"
	}
	return fmt.Sprintf("within %d us", us)
}
