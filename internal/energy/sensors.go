package energy

import (
	"slices"
	"strconv"
	"strings"

	"github.com/powerd/powerd/internal/sysfs"
)

// A Chip is a hwmon device. See Documentation/hwmon/sysfs-interface.rst.
type Chip struct {
	ID   string  `json:"id"`
	Name *string `json:"name"`
	// Channels by name: temp1, power1, energy2, ...
	Channels map[string]Channel `json:"channels"`

	dir string
}

// A Channel is one sensor of a chip, in hwmon's units: millidegrees, microwatts,
// microjoules, rpm, millivolts, milliamperes.
type Channel struct {
	Label   *string `json:"label,omitempty"`
	Input   *int64  `json:"input,omitempty"`
	Average *int64  `json:"average,omitempty"`

	dir string // the chip's directory or, in drivers of old, its device's
}

// ReadChips reads the hwmon devices.
func ReadChips(r *sysfs.Reader) []Chip {
	const class = "sys/class/hwmon"
	var out []Chip
	for _, n := range sysfs.Numbered(r.Names(class), "hwmon") {
		id := "hwmon" + strconv.Itoa(n)
		chip := Chip{ID: id, Channels: map[string]Channel{}, dir: class + "/" + id}
		for _, dir := range []string{chip.dir, chip.dir + "/device"} {
			if chip.Name == nil {
				chip.Name = r.Text(dir + "/name")
			}
			for _, file := range r.Names(dir) {
				name, attribute, ok := strings.Cut(file, "_")
				if !ok || !isChannel(name) {
					continue
				}
				ch := chip.Channels[name]
				switch attribute {
				case "label":
					ch.Label = r.Text(dir + "/" + file)
				case "input":
					ch.Input = r.Int(dir + "/" + file)
				case "average":
					ch.Average = r.Int(dir + "/" + file)
				default:
					continue
				}
				ch.dir = dir
				chip.Channels[name] = ch
			}
		}
		out = append(out, chip)
	}
	return out
}

// isChannel reports whether a name is a kind of sensor and a number.
func isChannel(name string) bool {
	kind := strings.TrimRight(name, "0123456789")
	return kind != name && slices.Contains([]string{"temp", "fan", "in", "curr", "power", "energy", "humidity"}, kind)
}

// A Supply is a battery or a mains adapter, with the attributes it has: energies
// in microwatt-hours, charges in microampere-hours, power in microwatts,
// voltages in microvolts, currents in microamperes.
// See Documentation/power/power_supply_class.rst.
type Supply struct {
	ID               string  `json:"id"`
	Type             *string `json:"type,omitempty"`
	Status           *string `json:"status,omitempty"`
	Scope            *string `json:"scope,omitempty"`
	Online           *int64  `json:"online,omitempty"`
	Present          *int64  `json:"present,omitempty"`
	Capacity         *int64  `json:"capacity,omitempty"`
	EnergyNow        *int64  `json:"energy_now,omitempty"`
	EnergyFull       *int64  `json:"energy_full,omitempty"`
	EnergyFullDesign *int64  `json:"energy_full_design,omitempty"`
	ChargeNow        *int64  `json:"charge_now,omitempty"`
	ChargeFull       *int64  `json:"charge_full,omitempty"`
	ChargeFullDesign *int64  `json:"charge_full_design,omitempty"`
	PowerNow         *int64  `json:"power_now,omitempty"`
	CurrentNow       *int64  `json:"current_now,omitempty"`
	VoltageNow       *int64  `json:"voltage_now,omitempty"`
	VoltageMinDesign *int64  `json:"voltage_min_design,omitempty"`

	dir string
}

// ReadSupplies reads the power supplies.
func ReadSupplies(r *sysfs.Reader) []Supply {
	const class = "sys/class/power_supply"
	var out []Supply
	for _, id := range r.Names(class) {
		dir := class + "/" + id
		s := Supply{ID: id, dir: dir, Type: r.Text(dir + "/type"), Status: r.Text(dir + "/status"), Scope: r.Text(dir + "/scope")}
		for name, field := range map[string]**int64{
			"online": &s.Online, "present": &s.Present, "capacity": &s.Capacity,
			"energy_now": &s.EnergyNow, "energy_full": &s.EnergyFull, "energy_full_design": &s.EnergyFullDesign,
			"charge_now": &s.ChargeNow, "charge_full": &s.ChargeFull, "charge_full_design": &s.ChargeFullDesign,
			"power_now": &s.PowerNow, "current_now": &s.CurrentNow,
			"voltage_now": &s.VoltageNow, "voltage_min_design": &s.VoltageMinDesign,
		} {
			*field = r.Int(dir + "/" + name)
		}
		out = append(out, s)
	}
	return out
}

// Thermal is what the thermal framework shows.
type Thermal struct {
	Zones   []ThermalZone   `json:"zones"`
	Devices []CoolingDevice `json:"cooling_devices"`
}

// A ThermalZone is a place with a temperature in millidegrees Celsius.
type ThermalZone struct {
	ID     string  `json:"id"`
	Type   *string `json:"type"`
	Temp   *int64  `json:"temp_mC"`
	Policy *string `json:"policy"`
	Mode   *string `json:"mode"`
}

// A CoolingDevice is something the kernel slows to cool a zone.
type CoolingDevice struct {
	ID       string  `json:"id"`
	Type     *string `json:"type"`
	CurState *int64  `json:"cur_state"`
	MaxState *int64  `json:"max_state"`
}

// ReadThermal reads thermal zones and cooling devices; nil where there are none.
// See Documentation/driver-api/thermal/sysfs-api.rst.
func ReadThermal(r *sysfs.Reader) *Thermal {
	const class = "sys/class/thermal"
	names := r.Names(class)
	t := &Thermal{Zones: []ThermalZone{}, Devices: []CoolingDevice{}}
	for _, n := range sysfs.Numbered(names, "thermal_zone") {
		id := "thermal_zone" + strconv.Itoa(n)
		dir := class + "/" + id
		t.Zones = append(t.Zones, ThermalZone{id, r.Text(dir + "/type"), r.Int(dir + "/temp"), r.Text(dir + "/policy"), r.Text(dir + "/mode")})
	}
	for _, n := range sysfs.Numbered(names, "cooling_device") {
		id := "cooling_device" + strconv.Itoa(n)
		dir := class + "/" + id
		t.Devices = append(t.Devices, CoolingDevice{id, r.Text(dir + "/type"), r.Int(dir + "/cur_state"), r.Int(dir + "/max_state")})
	}
	if len(t.Zones)+len(t.Devices) == 0 {
		return nil
	}
	return t
}
