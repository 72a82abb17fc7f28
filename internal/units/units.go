// Package units gives the quantities of energy decisions their types, so that a
// bare number is never a hertz, a watt or a joule.
//
// Integers carry what the kernel counts (kHz, microvolts, microjoules) and are
// exact; floats carry what a model computes (Power, Cost, Seconds).
package units

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// A Frequency is a clock rate in kHz, the unit of the kernel's cpufreq files.
type Frequency uint64

// Frequencies for writing constants, e.g. 1800*units.MHz.
const (
	KHz Frequency = 1
	MHz Frequency = 1000 * KHz
	GHz Frequency = 1000 * MHz
)

// MHz returns f in megahertz.
func (f Frequency) MHz() float64 { return float64(f) / float64(MHz) }

// String prints f in MHz, e.g. "1800 MHz".
func (f Frequency) String() string { return trim(f.MHz(), 3) + " MHz" }

// A Voltage is in microvolts, the unit of the device tree's opp-microvolt.
type Voltage uint64

// Voltages for writing constants.
const (
	Microvolt Voltage = 1
	Millivolt Voltage = 1000 * Microvolt
	Volt      Voltage = 1000 * Millivolt
)

// Volts returns v in volts.
func (v Voltage) Volts() float64 { return float64(v) / float64(Volt) }

// String prints v in millivolts, e.g. "1200 mV".
func (v Voltage) String() string { return trim(float64(v)/float64(Millivolt), 3) + " mV" }

// A Power is in microwatts, the unit of powercap and hwmon.
type Power float64

// Powers for writing constants.
const (
	Microwatt Power = 1
	Milliwatt Power = 1000 * Microwatt
	Watt      Power = 1000 * Milliwatt
	Megawatt  Power = 1e6 * Watt
)

// Watts returns p in watts.
func (p Power) Watts() float64 { return float64(p) / float64(Watt) }

// Over returns the energy p costs in s seconds.
func (p Power) Over(s Seconds) Cost { return Cost(float64(p) * float64(s)) }

// String prints p with the unit that suits its size, e.g. "1.85 W".
func (p Power) String() string {
	switch a := math.Abs(float64(p)); {
	case a >= float64(Watt):
		return trim(p.Watts(), 3) + " W"
	case a >= float64(Milliwatt):
		return trim(float64(p/Milliwatt), 3) + " mW"
	default:
		return trim(float64(p), 3) + " uW"
	}
}

// An Energy is a counted amount in microjoules. Ledgers add Energies and must
// come out exact, so it is an integer; a model's answer is a Cost.
type Energy int64

// Energies for writing constants.
const (
	Microjoule Energy = 1
	Millijoule Energy = 1000 * Microjoule
	Joule      Energy = 1000 * Millijoule
)

// Joules returns e in joules.
func (e Energy) Joules() float64 { return float64(e) / float64(Joule) }

// String prints e with the unit that suits its size, e.g. "12.5 J".
func (e Energy) String() string { return Cost(e).String() }

// A Cost is a modelled amount of energy in microjoules.
type Cost float64

// Joules returns c in joules.
func (c Cost) Joules() float64 { return float64(c) / float64(Joule) }

// Energy rounds c to whole microjoules.
func (c Cost) Energy() Energy { return Energy(math.Round(float64(c))) }

// String prints c with the unit that suits its size, e.g. "12.5 mJ".
func (c Cost) String() string {
	switch a := math.Abs(float64(c)); {
	case a >= float64(Joule):
		return trim(c.Joules(), 3) + " J"
	case a >= float64(Millijoule):
		return trim(float64(c)/float64(Millijoule), 3) + " mJ"
	default:
		return trim(float64(c), 3) + " uJ"
	}
}

// A Seconds is a modelled span of time. Spans that clocks measure are
// time.Duration; a Seconds keeps the fractions of a nanosecond a model needs.
type Seconds float64

// SecondsOf converts a measured duration.
func SecondsOf(d time.Duration) Seconds { return Seconds(d.Seconds()) }

// Duration rounds s to whole nanoseconds.
func (s Seconds) Duration() time.Duration {
	return time.Duration(math.Round(float64(s) * float64(time.Second)))
}

// String prints s with the unit that suits its size, e.g. "133 us".
func (s Seconds) String() string {
	switch a := math.Abs(float64(s)); {
	case a >= 1:
		return trim(float64(s), 3) + " s"
	case a >= 1e-3:
		return trim(float64(s)*1e3, 3) + " ms"
	default:
		return trim(float64(s)*1e6, 3) + " us"
	}
}

// Typed ids, as the kernel numbers them.
type (
	// A PolicyID is the N of sys/devices/system/cpu/cpufreq/policyN.
	PolicyID int
	// A PackageID is a physical_package_id. It can be -1 where firmware gave none.
	PackageID int
	// A NodeID is the N of sys/devices/system/node/nodeN.
	NodeID int
)

func trim(v float64, decimals int) string {
	s := strconv.FormatFloat(v, 'f', decimals, 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

type scale struct {
	unit string
	by   float64
}

// parse reads "1.2 GHz": a decimal number and one of the units given.
func parse(s, what string, scales []scale) (float64, error) {
	t := strings.TrimSpace(s)
	i := strings.LastIndexAny(t, "0123456789.") + 1
	number, unit := strings.TrimSpace(t[:i]), strings.TrimSpace(t[i:])
	units := make([]string, len(scales))
	for i, sc := range scales {
		units[i] = sc.unit
		if sc.unit != unit {
			continue
		}
		v, err := strconv.ParseFloat(number, 64)
		if err != nil || math.IsInf(v, 0) || math.IsNaN(v) || strings.ContainsAny(number, "xXpP_") {
			return 0, fmt.Errorf("cannot read %s %q: %q is not a decimal number", what, s, number)
		}
		if v < 0 {
			return 0, fmt.Errorf("cannot read %s %q: it is negative", what, s)
		}
		// Dividing by a whole number keeps decimal input exact where
		// multiplying by its inverse would not (85us is 85/1e6).
		if sc.by < 1 {
			v /= math.Round(1 / sc.by)
		} else {
			v *= sc.by
		}
		if math.IsInf(v, 0) {
			return 0, fmt.Errorf("cannot read %s %q: it is too large", what, s)
		}
		return v, nil
	}
	return 0, fmt.Errorf("cannot read %s %q: want a number and a unit (%s)", what, s, strings.Join(units, ", "))
}

func whole(v float64, s, what string) (uint64, error) {
	if v >= 1<<53 {
		return 0, fmt.Errorf("cannot read %s %q: it is too large", what, s)
	}
	return uint64(math.Round(v)), nil
}

// ParseFrequency reads "1800MHz", "1.8GHz" or "1800000kHz".
func ParseFrequency(s string) (Frequency, error) {
	v, err := parse(s, "frequency", []scale{{"kHz", 1}, {"MHz", 1e3}, {"GHz", 1e6}})
	if err != nil {
		return 0, err
	}
	u, err := whole(v, s, "frequency")
	return Frequency(u), err
}

// ParseVoltage reads "825mV", "1.2V" or "825000uV".
func ParseVoltage(s string) (Voltage, error) {
	v, err := parse(s, "voltage", []scale{{"uV", 1}, {"mV", 1e3}, {"V", 1e6}})
	if err != nil {
		return 0, err
	}
	u, err := whole(v, s, "voltage")
	return Voltage(u), err
}

// ParsePower reads "1850mW", "1.85W" or "1850000uW".
func ParsePower(s string) (Power, error) {
	v, err := parse(s, "power", []scale{{"uW", 1}, {"mW", 1e3}, {"W", 1e6}})
	return Power(v), err
}

// ParseSlowdown reads how many times longer something may take, "1.5": from 1 to 1000.
func ParseSlowdown(s string) (float64, error) {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || !(v >= 1 && v <= 1000) {
		return 0, fmt.Errorf("%q is no factor of 1 to 1000", s)
	}
	return v, nil
}

// ParseBudget reads a power, or an energy per time: "2W", "500mW", "2J/s", "90J/1.5s".
func ParseBudget(s string) (Power, error) {
	amount, per, ok := strings.Cut(s, "/")
	if !ok {
		return ParsePower(s)
	}
	c, err := ParseCost(amount)
	if err != nil {
		return 0, err
	}
	if per != "" && (per[0] < '0' || per[0] > '9') {
		per = "1" + per
	}
	t, err := ParseSeconds(per)
	if err == nil && t <= 0 {
		err = fmt.Errorf("%q is no time", per)
	}
	return Power(float64(c) / float64(t)), err
}

// ParseCost reads "90uJ", "0.09mJ" or "1J".
func ParseCost(s string) (Cost, error) {
	v, err := parse(s, "energy", []scale{{"uJ", 1}, {"mJ", 1e3}, {"J", 1e6}})
	return Cost(v), err
}

// ParseSeconds reads "85us", "30ms" or "1.5s".
func ParseSeconds(s string) (Seconds, error) {
	v, err := parse(s, "time", []scale{{"us", 1e-6}, {"ms", 1e-3}, {"s", 1}})
	return Seconds(v), err
}
