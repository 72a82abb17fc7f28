package cpufreq

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/units"
)

// A driver is how a family of kernel drivers takes limits.
type driver interface {
	// steps returns the clocks a policy can run at, ascending; empty where
	// nothing is known.
	steps(p Policy) []units.Frequency
	// snap returns the limit the driver makes of a wish, given the steps (at least
	// one): floors go up, ceilings go down.
	snap(steps []units.Frequency, f units.Frequency, ceiling bool) units.Frequency
}

// driverOf returns the family of a policy's driver. One that is not known by
// name is of the table family if it lists OPPs.
func driverOf(p Policy) driver {
	switch name := deref(p.Driver); {
	case name == "" || p.Inactive:
		return none{}
	case name == "intel_pstate" || name == "intel_cpufreq":
		return intelPState{}
	case name == "amd-pstate" || name == "amd-pstate-epp":
		return amdPState{}
	case name == "acpi-cpufreq" && len(p.Available) > 0:
		return acpiCPUFreq{}
	case len(p.Available)+len(p.BoostOPPs) > 0:
		return table{}
	default:
		return continuous{}
	}
}

// Steps returns the clocks that p can run at, ascending: the driver's table, or
// for drivers that take any clock a ladder of 100 MHz between the hardware's
// limits. Nil where there is nothing to choose.
func (p Policy) Steps() []units.Frequency { return driverOf(p).steps(p) }

// Limits returns the writes that move p from its limits in force to the band
// floor to ceiling, each snapped to what the driver takes: nothing where they
// hold already. min <= max holds after each write, because the kernel refuses
// what breaks it: max goes first when it rises, min when max falls.
//
// A band that holds no OPP becomes the next OPP above its floor. Limits beyond
// the hardware's become the hardware's.
func (p Policy) Limits(floor, ceiling units.Frequency) []sysfs.Write {
	if p.ScalingMin == nil || p.ScalingMax == nil {
		return nil
	}
	d := driverOf(p)
	steps := d.steps(p)
	if len(steps) == 0 {
		return nil
	}
	low, high := d.snap(steps, floor, false), d.snap(steps, ceiling, true)
	high = max(high, low)

	var writes []sysfs.Write
	setMin := func() {
		if d.snap(steps, *p.ScalingMin, false) != low || *p.ScalingMin > high {
			writes = append(writes, p.write("scaling_min_freq", low))
		}
	}
	setMax := func() {
		if d.snap(steps, *p.ScalingMax, true) != high || *p.ScalingMax < low {
			writes = append(writes, p.write("scaling_max_freq", high))
		}
	}
	if high > *p.ScalingMax {
		setMax()
		setMin()
	} else {
		setMin()
		setMax()
	}
	return writes
}

func (p Policy) write(name string, f units.Frequency) sysfs.Write {
	return sysfs.Write{File: p.Dir + "/" + name, Value: strconv.FormatUint(uint64(f), 10)}
}

// none is a machine without a driver, or a policy whose cpus are all offline.
type none struct{}

func (none) steps(Policy) []units.Frequency                                      { return nil }
func (none) snap(_ []units.Frequency, f units.Frequency, _ bool) units.Frequency { return f }

func deref[T any](p *T) T {
	if p == nil {
		return *new(T)
	}
	return *p
}

// Crosses refuses to write a scaling_min_freq above the scaling_max_freq now in
// force, or the other way round, and names the other file. Limits gives an order
// that never crosses, but the write before may have failed, or the other file be
// somebody else's. Kernels differ: old ones answer EINVAL, new ones take both for
// wishes and hide one.
func Crosses(m sysfs.FS, w sysfs.Write) (other string, err error) {
	dir, file := path.Split(w.File)
	switch file {
	case "scaling_max_freq":
		other = dir + "scaling_min_freq"
	case "scaling_min_freq":
		other = dir + "scaling_max_freq"
	default:
		return "", nil
	}
	data, err := m.ReadFile(other)
	if err != nil {
		return "", nil // writing will say what is wrong
	}
	limit, err := sysfs.ParseUint(strings.TrimSpace(string(data)))
	want, werr := sysfs.ParseUint(strings.TrimSpace(w.Value))
	if err != nil || werr != nil || want == limit || (want < limit) == (file == "scaling_min_freq") {
		return "", nil
	}
	return other, fmt.Errorf("%s is %d, and the two would cross", path.Base(other), limit)
}
