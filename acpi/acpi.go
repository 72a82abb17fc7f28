package acpi

import (
	"encoding/binary"
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/units"
)

const tableDir = "sys/firmware/acpi/tables"

// Info is what firmware and the kernel's ACPI code say of power. What there is
// not is nil.
type Info struct {
	Tables []Table         `json:"tables"`
	FADT   map[string]FADT `json:"fadt"` // by file
	// Sleep are the \_Sx packages found; those firmware lacks are not keys.
	Sleep map[string]SleepType `json:"sleep_states"`
	PSS   []PSS                `json:"pss"`
	CST   []CST                `json:"cst"`
	CPPC  []CPPC               `json:"cppc"`
	// Offered are the global states the node offers (G0 to G3), with the sleep
	// states in each and what says so.
	Offered map[string][]Offer `json:"global_states"`
	// PMProfile is the kernel's copy of Preferred_PM_Profile.
	PMProfile       *uint64  `json:"pm_profile"`
	PlatformProfile *string  `json:"platform_profile"`
	Profiles        []string `json:"platform_profile_choices"`
	// Supply is "ac" or "battery"; nil where nothing tells.
	Supply *string `json:"power_source"`
}

// A SleepType is a \_Sx package: what goes into the SLP_TYP fields of the PM1
// control registers (ACPI 6.5, 7.4.2).
type SleepType struct {
	A       uint64   `json:"slp_typa"`
	B       uint64   `json:"slp_typb"`
	Package []uint64 `json:"package"`
	Table   string   `json:"table"`
	// Conditional names what the enclosing If asks for.
	Conditional *string `json:"conditional_on"`
}

// A PSS is a static _PSS: a processor's performance states (8.4.5.2).
type PSS struct {
	Scope  string   `json:"scope"`
	Table  string   `json:"table"`
	States []PState `json:"states"`
}

// A PState is one performance state.
type PState struct {
	CoreMHz          uint64 `json:"core_mhz"`
	PowerMW          uint64 `json:"power_mw"`
	LatencyUS        uint64 `json:"latency_us"`
	BusMasterLatency uint64 `json:"bus_master_latency_us"`
	Control          uint64 `json:"control"`
	Status           uint64 `json:"status"`
}

// A CST is a static _CST: a processor's idle states (8.4.1.1).
type CST struct {
	Scope  string   `json:"scope"`
	Table  string   `json:"table"`
	States []CState `json:"states"`
}

// A CState is one idle state of a _CST.
type CState struct {
	Type      uint64          `json:"type"` // 1, 2 or 3
	LatencyUS uint64          `json:"latency_us"`
	PowerMW   uint64          `json:"power_mw"`
	Register  *GenericAddress `json:"register"`
}

// A CPPC is a cpu's performance capabilities on an abstract scale (8.4.6), from
// acpi_cppc/. LowestNonlinear is the level below which slower saves no energy per
// unit of work.
type CPPC struct {
	CPU             cpuset.CPU `json:"cpu"`
	Highest         *uint64    `json:"highest_perf"`
	Nominal         *uint64    `json:"nominal_perf"`
	LowestNonlinear *uint64    `json:"lowest_nonlinear_perf"`
	Lowest          *uint64    `json:"lowest_perf"`
	NominalMHz      *uint64    `json:"nominal_freq"`
	LowestMHz       *uint64    `json:"lowest_freq"`
}

// An Offer is a sleep state the node offers, and what says so.
type Offer struct {
	State string `json:"state"` // S0, S0ix, S1, S3, S4, S5
	Basis string `json:"basis"`
}

// Read reads everything below the root. Tables that make no sense cost themselves
// and a warning.
func Read(r *sysfs.Reader) *Info {
	info := &Info{
		PMProfile:       r.Uint("sys/firmware/acpi/pm_profile"),
		PlatformProfile: r.Text("sys/firmware/acpi/platform_profile"),
		Supply:          readSupply(r),
		CPPC:            readCPPC(r),
	}
	if s := r.Text("sys/firmware/acpi/platform_profile_choices"); s != nil {
		info.Profiles = strings.Fields(*s)
	}
	info.tables(r)
	info.offers(r)
	return info
}

func (info *Info) tables(r *sysfs.Reader) {
	var files []string
	for _, dir := range []string{tableDir, tableDir + "/dynamic"} {
		for _, name := range r.Names(dir) {
			if name != "dynamic" && name != "data" {
				files = append(files, path.Join(dir, name))
			}
		}
	}
	slices.SortStableFunc(files, loadOrder)
	var code []Table
	for _, file := range files {
		data := r.Bytes(file)
		if data == nil {
			continue
		}
		name := path.Base(file)
		t, err := parseTable(name, data)
		if err != nil {
			r.Warn(file, fmt.Sprintf("table %s: %v", name, err))
		} else if t.Truncated {
			r.Warn(file, fmt.Sprintf("table %s: offset %d: the file ends, the header says %d bytes", name, len(data), *t.Length))
		} else if t.ChecksumOK != nil && !*t.ChecksumOK {
			r.Warn(file, fmt.Sprintf("table %s: offset 9: the checksum is wrong", name))
		}
		info.Tables = append(info.Tables, t)
		if err != nil {
			continue
		}
		switch t.Signature {
		case "FACP":
			f, err := parseFADT(t.data)
			if err != nil {
				r.Warn(file, fmt.Sprintf("table %s: %v", name, err))
				continue
			}
			if info.FADT == nil {
				info.FADT = map[string]FADT{}
			}
			info.FADT[name] = f
		case "DSDT", "SSDT", "PSDT":
			code = append(code, t)
		}
	}
	slices.SortStableFunc(info.Tables, func(a, b Table) int { return strings.Compare(a.File, b.File) })
	if code == nil {
		return
	}
	// Methods' argument counts are needed to skip calls, and a call may come
	// before its method: the first pass collects them.
	first := newNamespace()
	for _, t := range code {
		parseAML(t.data, headerSize, first, t.File)
	}
	ns := newNamespace()
	ns.methods = first.methods
	for _, t := range code {
		for _, err := range parseAML(t.data, headerSize, ns, t.File) {
			r.Warn(path.Join(tableDir, t.File), fmt.Sprintf("table %s: %v", t.File, err))
		}
	}
	info.Sleep = sleepTypes(ns)
	for _, p := range ns.order {
		o := ns.objects[p]
		scope := strings.TrimSuffix(strings.TrimSuffix(p, lastSegment(p)), ".")
		switch lastSegment(p) {
		case "_PSS":
			if states := pStates(ns, o.value); len(states) > 0 {
				info.PSS = append(info.PSS, PSS{scope, o.file, states})
			}
		case "_CST":
			if states := cStates(ns, o.value); len(states) > 0 {
				info.CST = append(info.CST, CST{scope, o.file, states})
			}
		}
	}
	if info.PSS == nil {
		info.PSS = []PSS{}
	}
}

var numbered = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(.*?)(\d*)$`) })

// loadOrder is the order in which the kernel loads tables: the DSDT, then SSDTs
// by number.
func loadOrder(a, b string) int {
	an, bn := numbered().FindStringSubmatch(path.Base(a)), numbered().FindStringSubmatch(path.Base(b))
	if c := strings.Compare(an[1], bn[1]); c != 0 {
		return c
	}
	ai, _ := strconv.Atoi(an[2])
	bi, _ := strconv.Atoi(bn[2])
	return ai - bi
}

func sleepTypes(ns *namespace) map[string]SleepType {
	out := map[string]SleepType{}
	for i := range 6 {
		state := "S" + strconv.Itoa(i)
		o, ok := ns.objects[`\_`+state]
		if !ok {
			continue
		}
		list, ok := ns.resolve(o.value).([]value)
		if !ok {
			continue
		}
		s := SleepType{Table: o.file, Package: []uint64{}}
		for _, v := range list {
			n, ok := ns.resolve(v).(uint64)
			if !ok {
				break
			}
			s.Package = append(s.Package, n)
		}
		if len(s.Package) == 0 {
			continue
		}
		s.A = s.Package[0] & 0xFF
		if len(s.Package) > 1 {
			s.B = s.Package[1] & 0xFF
		}
		if o.conditional != "" {
			s.Conditional = &o.conditional
		}
		out[state] = s
	}
	return out
}

// numbers reads a package of at least n numbers.
func (ns *namespace) numbers(v value, n int) []uint64 {
	list, ok := ns.resolve(v).([]value)
	if !ok || len(list) < n {
		return nil
	}
	out := make([]uint64, n)
	for i := range out {
		u, ok := ns.resolve(list[i]).(uint64)
		if !ok {
			return nil
		}
		out[i] = u
	}
	return out
}

func pStates(ns *namespace, v value) []PState {
	list, _ := ns.resolve(v).([]value)
	var out []PState
	for _, e := range list {
		// Firmware pads with clocks that are none. Like the kernel, take those
		// that fit cpufreq's 32 bits of kHz (drivers/acpi/processor_perflib.c).
		if n := ns.numbers(e, 6); n != nil && n[0] > 0 && n[0] <= math.MaxUint32/1000 {
			out = append(out, PState{n[0], n[1], n[2], n[3], n[4], n[5]})
		}
	}
	return out
}

func cStates(ns *namespace, v value) []CState {
	list, _ := ns.resolve(v).([]value)
	var out []CState
	for _, e := range list {
		entry, ok := ns.resolve(e).([]value)
		if !ok || len(entry) < 4 {
			continue // the first element is their count
		}
		var n [3]uint64
		whole := true
		for i := range n {
			u, ok := ns.resolve(entry[i+1]).(uint64)
			n[i], whole = u, whole && ok
		}
		if !whole {
			continue
		}
		s := CState{Type: n[0], LatencyUS: n[1], PowerMW: n[2]}
		// A resource template of one generic register descriptor (6.4.3.7).
		if b, ok := ns.resolve(entry[0]).([]byte); ok && len(b) >= 15 && b[0] == 0x82 && binary.LittleEndian.Uint16(b[1:]) == 12 {
			s.Register = address(b[3:])
		}
		out = append(out, s)
	}
	return out
}

func readCPPC(r *sysfs.Reader) []CPPC {
	const dir = "sys/devices/system/cpu"
	var out []CPPC
	for _, n := range sysfs.Numbered(r.Names(dir), "cpu") {
		file := func(name string) string { return fmt.Sprintf("%s/cpu%d/acpi_cppc/%s", dir, n, name) }
		c := CPPC{CPU: cpuset.CPU(n), Highest: r.Uint(file("highest_perf")), Nominal: r.Uint(file("nominal_perf")),
			LowestNonlinear: r.Uint(file("lowest_nonlinear_perf")), Lowest: r.Uint(file("lowest_perf")),
			NominalMHz: r.Uint(file("nominal_freq")), LowestMHz: r.Uint(file("lowest_freq"))}
		if c.Highest != nil || c.Nominal != nil || c.LowestNonlinear != nil || c.Lowest != nil {
			out = append(out, c)
		}
	}
	return out
}

// readSupply tells whether the machine runs from the mains.
func readSupply(r *sysfs.Reader) *string {
	const dir = "sys/class/power_supply"
	answer := ""
	for _, name := range r.Names(dir) {
		switch kind := r.Text(path.Join(dir, name, "type")); {
		case kind == nil:
		case *kind == "Mains" || *kind == "USB":
			if on := r.Uint(path.Join(dir, name, "online")); on != nil && *on > 0 {
				answer = "ac"
			} else if on != nil && answer == "" && *kind == "Mains" {
				answer = "battery"
			}
		case *kind == "Battery" && answer == "":
			if s := r.Text(path.Join(dir, name, "status")); s != nil && *s == "Discharging" {
				answer = "battery"
			}
		}
	}
	if answer == "" {
		return nil
	}
	return &answer
}

// offers derives what the node offers from /sys/power, which is what the kernel
// will do, and from the tables, which is what firmware can.
//
// See Documentation/admin-guide/pm/sleep-states.rst.
func (info *Info) offers(r *sysfs.Reader) {
	state := words(r, "sys/power/state")
	mem := words(r, "sys/power/mem_sleep")
	disk := words(r, "sys/power/disk")
	if state == nil && len(info.Sleep) == 0 && len(info.FADT) == 0 {
		return
	}
	lowPower := false
	for _, f := range info.FADT {
		lowPower = lowPower || f.LowPowerS0()
	}
	basis := func(name string, kernel bool, where string) string {
		var says []string
		if kernel {
			says = append(says, where)
		}
		if _, ok := info.Sleep[name]; ok {
			says = append(says, `\_`+name)
		}
		return strings.Join(says, " and ")
	}
	g := map[string][]Offer{"G0": {{"S0", "it runs"}}}
	add := func(global, state, basis string) {
		if basis != "" {
			g[global] = append(g[global], Offer{state, basis})
		}
	}
	s0ix := ""
	if slices.Contains(mem, "s2idle") || slices.Contains(state, "freeze") {
		s0ix = "/sys/power: s2idle"
		if lowPower {
			s0ix += ", and the FADT is capable of low power S0 idle"
		}
	}
	add("G1", "S0ix", s0ix)
	add("G1", "S1", basis("S1", slices.Contains(mem, "shallow") || slices.Contains(state, "standby"), "/sys/power: shallow"))
	add("G1", "S2", basis("S2", false, ""))
	add("G1", "S3", basis("S3", slices.Contains(mem, "deep") || mem == nil && slices.Contains(state, "mem"), "/sys/power: deep"))
	add("G1", "S4", basis("S4", slices.Contains(state, "disk") && !slices.Contains(disk, "disabled"), "/sys/power: disk"))
	add("G2", "S5", basis("S5", false, ""))
	g["G3"] = []Offer{{"G3", "mechanical off: by hand"}}
	info.Offered = g
}

// words reads a file of choices, "s2idle [deep]", without the brackets around the
// one in force; nil if absent.
func words(r *sysfs.Reader, file string) []string {
	v := sysfs.Value(r, file, parseWords)
	if v == nil {
		return nil
	}
	return *v
}

func parseWords(s string) ([]string, error) {
	if len(s) > 4096 {
		return nil, fmt.Errorf("%d bytes are too many for a list of states", len(s))
	}
	out := []string{}
	for _, w := range strings.Fields(s) {
		out = append(out, strings.Trim(w, "[]"))
	}
	return out, nil
}

// Power returns the power that a _PSS states for each clock.
func (p PSS) Power() map[units.Frequency]units.Power {
	out := make(map[units.Frequency]units.Power, len(p.States))
	for _, s := range p.States {
		out[units.Frequency(s.CoreMHz)*units.MHz] = units.Power(s.PowerMW) * units.Milliwatt
	}
	return out
}
