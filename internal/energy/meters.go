package energy

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/units"
)

// A MeterKind tells what a meter's number is.
type MeterKind string

// Kinds of meter.
const (
	// Counter counts microjoules.
	Counter MeterKind = "energy"
	// Gauge shows microwatts.
	Gauge MeterKind = "power"
)

// A Meter is one place where the machine tells energy or power.
type Meter struct {
	// Name says what it is, e.g. "intel-rapl:0 package-0".
	Name string `json:"name"`
	// Source is the interface: rapl, rapl-mmio, hwmon, acpi, battery.
	Source string    `json:"source"`
	Kind   MeterKind `json:"kind"`
	// Unit is "uJ" or "uW".
	Unit string `json:"unit"`
	// Scope is the part of the machine it measures: package, dram, core, uncore,
	// psys, node, or unknown.
	Scope string `json:"scope"`
	// Path is its file. A battery that shows no power has current and voltage
	// instead: then Path is the current and Voltage the other.
	Path    string `json:"path"`
	Voltage string `json:"voltage_path,omitempty"`
	// Range is where a counter begins again at 0, in microjoules; nil where the
	// kernel does not say.
	Range *uint64 `json:"max_energy_range_uj"`
	// DuplicateOf names the meter that reads the same hardware another way.
	DuplicateOf string `json:"duplicate_of,omitempty"`
	// Unusable says why it cannot be used now, e.g. "the battery is charging".
	Unusable string `json:"unusable,omitempty"`
}

// Discover finds a machine's meters.
func Discover(r *sysfs.Reader) []Meter {
	meters := raplMeters(ReadZones(r))
	meters = append(meters, hwmonMeters(ReadChips(r))...)
	return append(meters, batteryMeters(ReadSupplies(r))...)
}

// raplMeters makes meters of the zones with a counter. The package's MSR zones
// and their memory-mapped twins count the same joules.
func raplMeters(zones []Zone) []Meter {
	names := map[string]string{} // of zones, to tell package-1's dram from package-0's
	for _, z := range zones {
		names[z.Zone] = deref(z.Name)
	}
	var out []Meter
	first := map[string]string{}
	// "intel-rapl" sorts before "intel-rapl-mmio", so the MSR zone is the first.
	for _, z := range zones {
		kind, _, _ := strings.Cut(z.Zone, ":")
		if !strings.Contains(kind, "rapl") {
			continue
		}
		m := Meter{
			Name: strings.TrimSpace(z.Zone + " " + deref(z.Name)), Source: "rapl", Kind: Counter, Unit: "uJ",
			Scope: scopeOf(deref(z.Name)), Path: z.Path + "/energy_uj", Range: z.RangeUJ,
		}
		if strings.Contains(kind, "mmio") {
			m.Source = "rapl-mmio"
		}
		if z.EnergyUJ == nil {
			m.Unusable = "its energy_uj cannot be read"
		}
		key := names[z.parent()] + "/" + deref(z.Name)
		if twin, ok := first[key]; ok {
			m.DuplicateOf = twin
		} else if m.Unusable == "" {
			first[key] = m.Name
		}
		out = append(out, m)
	}
	return out
}

// scopeOf reads a zone's name, "package-0", or "package-0-die-1" where each die
// counts for itself.
func scopeOf(name string) string {
	switch {
	case strings.HasPrefix(name, "package"):
		return "package"
	case slices.Contains([]string{"core", "uncore", "dram", "psys"}, name):
		return name
	default:
		return "unknown"
	}
}

// devices measure a part that is no cpu, or tell the battery's numbers again.
var devices = []string{"amdgpu", "nouveau", "radeon", "i915", "xe", "nvme", "BAT", "ucsi", "iwlwifi", "mlx"}

func hwmonMeters(chips []Chip) []Meter {
	var out []Meter
	for _, c := range chips {
		name := deref(c.Name)
		for _, channel := range sortedKeys(c.Channels) {
			ch := c.Channels[channel]
			label := deref(ch.Label)
			m := Meter{
				Name: strings.Join(strings.Fields(c.ID+" "+name+" "+channel+" "+label), " "), Source: "hwmon",
				Scope: "unknown",
			}
			switch {
			case strings.HasPrefix(channel, "energy") && ch.Input != nil:
				m.Kind, m.Unit, m.Path = Counter, "uJ", ch.dir+"/"+channel+"_input"
				switch { // Documentation/hwmon/amd_energy.rst
				case strings.HasPrefix(label, "Esocket"):
					m.Scope = "package"
				case strings.HasPrefix(label, "Ecore"):
					m.Scope = "core"
				}
			case strings.HasPrefix(channel, "power") && ch.Average != nil:
				m.Kind, m.Unit, m.Path = Gauge, "uW", ch.dir+"/"+channel+"_average"
			case strings.HasPrefix(channel, "power") && ch.Input != nil:
				m.Kind, m.Unit, m.Path = Gauge, "uW", ch.dir+"/"+channel+"_input"
			default:
				continue
			}
			if name == "power_meter" { // drivers/hwmon/acpi_power_meter.c
				m.Source, m.Scope = "acpi", "node"
			}
			if slices.ContainsFunc(devices, func(d string) bool { return strings.HasPrefix(name, d) }) {
				m.Unusable = "it measures a device, not the cpus"
			}
			out = append(out, m)
		}
	}
	return out
}

func batteryMeters(supplies []Supply) []Meter {
	unplugged := slices.ContainsFunc(supplies, func(s Supply) bool {
		return deref(s.Type) == "Mains" && s.Online != nil && *s.Online == 0
	})
	var out []Meter
	for _, s := range supplies {
		if deref(s.Type) != "Battery" || deref(s.Scope) == "Device" {
			continue
		}
		m := Meter{Name: s.ID, Source: "battery", Kind: Gauge, Unit: "uW", Scope: "node"}
		switch {
		case s.PowerNow != nil:
			m.Path = s.dir + "/power_now"
		case s.CurrentNow != nil && s.VoltageNow != nil:
			m.Path, m.Voltage = s.dir+"/current_now", s.dir+"/voltage_now"
		default:
			continue
		}
		switch status := deref(s.Status); {
		case status == "Discharging" || status == "" && unplugged:
		case status == "":
			m.Unusable = "nothing tells whether the battery is discharging"
		default:
			m.Unusable = "the battery is " + strings.ToLower(status)
		}
		out = append(out, m)
	}
	return out
}

func sortedKeys(m map[string]Channel) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) // energy2 before energy10
	})
	return keys
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// A Source is the meters that together tell what the node uses.
type Source struct {
	Meters []Meter `json:"-"`
	// Names are those of Meters.
	Names []string `json:"meters"`
	// Why says how they were chosen.
	Why string `json:"why"`
}

// Best chooses among the meters, nil where none will do:
//
//  1. RAPL's packages plus their dram, which packages do not include; MSR before
//     its memory-mapped twin, which counts the same again. Core and uncore are
//     inside the package. Psys is never added: what it includes is up to the
//     board's maker, and it can count less than the package.
//  2. hwmon energy counters of sockets (amd_energy), or the one counter there is.
//  3. The ACPI power meter, which tells the whole node's power.
//  4. hwmon power, if there is one sensor; of several nobody can tell which
//     include each other.
//  5. The battery while it discharges.
//
// A counter beats a gauge because it misses nothing between two readings.
func Best(meters []Meter) *Source {
	pick := func(want func(Meter) bool) []Meter {
		var out []Meter
		for _, m := range meters {
			if m.Unusable == "" && m.DuplicateOf == "" && want(m) {
				out = append(out, m)
			}
		}
		return out
	}
	rapl := pick(func(m Meter) bool { return strings.HasPrefix(m.Source, "rapl") && m.Scope == "package" })
	if len(rapl) > 0 {
		dram := pick(func(m Meter) bool { return strings.HasPrefix(m.Source, "rapl") && m.Scope == "dram" })
		why := "RAPL packages, counted by the processor"
		if len(dram) > 0 {
			why = "RAPL packages and dram, counted by the processor"
		}
		return newSource(append(rapl, dram...), why)
	}
	counters := pick(func(m Meter) bool { return m.Source == "hwmon" && m.Kind == Counter })
	sockets := slices.DeleteFunc(slices.Clone(counters), func(m Meter) bool { return m.Scope != "package" })
	switch {
	case len(sockets) > 0:
		return newSource(sockets, "hwmon energy counters of the sockets")
	case len(counters) == 1:
		return newSource(counters, "the only hwmon energy counter")
	}
	if acpi := pick(func(m Meter) bool { return m.Source == "acpi" }); len(acpi) > 0 {
		return newSource(acpi[:1], "the ACPI power meter: the whole node's power, averaged by firmware")
	}
	if gauges := pick(func(m Meter) bool { return m.Source == "hwmon" && m.Kind == Gauge }); len(gauges) == 1 {
		return newSource(gauges, "the only hwmon power sensor")
	}
	if batteries := pick(func(m Meter) bool { return m.Source == "battery" }); len(batteries) > 0 {
		return newSource(batteries, "the battery, which is discharging: the whole node's power")
	}
	return nil
}

func newSource(meters []Meter, why string) *Source {
	s := &Source{Meters: meters, Why: why}
	for _, m := range meters {
		s.Names = append(s.Names, m.Name)
	}
	return s
}

// Read returns the meter's number: microjoules counted, or microwatts now.
func (m Meter) Read(fs sysfs.FS) (uint64, error) {
	v, err := readNumber(fs, m.Path)
	if err != nil || m.Voltage == "" {
		return v, err
	}
	volts, err := readNumber(fs, m.Voltage)
	if err != nil {
		return 0, err
	}
	return uint64(float64(v) / 1e6 * float64(volts)), nil // uA x uV = 1e6 uW
}

func readNumber(fs sysfs.FS, file string) (uint64, error) {
	data, err := fs.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("cannot read meter: %w", err)
	}
	v, err := parseMeter(string(data))
	if err != nil {
		return 0, fmt.Errorf("cannot read meter %s: %v", file, err)
	}
	return v, nil
}

// parseMeter reads a meter's file, "240422366267". Some batteries show what flows
// out of them as negative.
func parseMeter(s string) (uint64, error) {
	return sysfs.ParseUint(strings.TrimPrefix(strings.TrimSpace(s), "-"))
}

// A Reading is what the meters of a source showed at one time.
type Reading struct {
	At     time.Time
	Values []uint64
}

// Read reads all meters of s.
func (s *Source) Read(fs sysfs.FS, now time.Time) (Reading, error) {
	r := Reading{At: now, Values: make([]uint64, len(s.Meters))}
	for i, m := range s.Meters {
		v, err := m.Read(fs)
		if err != nil {
			return Reading{}, err
		}
		r.Values[i] = v
	}
	return r, nil
}

// Between returns the energy used from reading a to reading b, or nil and why it
// is unknown. It is never negative.
func (s *Source) Between(a, b Reading) (used *units.Energy, unknown string) {
	dt := b.At.Sub(a.At)
	switch {
	case len(a.Values) != len(s.Meters) || len(b.Values) != len(s.Meters):
		return nil, "there is no earlier reading"
	case dt <= 0:
		return nil, "no time has passed"
	}
	var total units.Energy
	for i, m := range s.Meters {
		var e units.Energy
		if m.Kind == Gauge {
			mean := units.Power(float64(a.Values[i])/2 + float64(b.Values[i])/2)
			e = mean.Over(units.SecondsOf(dt)).Energy()
		} else {
			n, why := counted(a.Values[i], b.Values[i], m.Range)
			if why != "" {
				return nil, m.Name + ": " + why
			}
			e = n
		}
		if e < 0 || total > math.MaxInt64-e {
			return nil, m.Name + ": it shows more than can be"
		}
		total += e
	}
	return &total, ""
}

// counted is how far a counter went from a to b. It begins again at 0 after span;
// a counter that went back by itself is not to be trusted for this interval.
func counted(a, b uint64, span *uint64) (units.Energy, string) {
	d := b - a
	if b < a {
		if span == nil {
			return 0, "the counter went back and its range is not known"
		}
		if a > *span {
			return 0, "the counter was beyond its range"
		}
		d = *span - a + b
	}
	if d > math.MaxInt64 {
		return 0, "the counter jumped"
	}
	return units.Energy(d), ""
}
