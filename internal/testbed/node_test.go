package testbed

import (
	"testing"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/internal/units"
)

// curve is the node of these tests.
func curve() cpufreq.Curve {
	var c cpufreq.Curve
	for _, o := range []struct {
		f units.Frequency
		p units.Power
	}{
		{800 * units.MHz, 2 * units.Watt},
		{1200 * units.MHz, 3200 * units.Milliwatt},
		{1600 * units.MHz, 4800 * units.Milliwatt},
		{2000 * units.MHz, 7 * units.Watt},
		{2400 * units.MHz, 9500 * units.Milliwatt},
	} {
		c.OPPs = append(c.OPPs, cpufreq.OPP{Frequency: o.f, Speed: float64(o.f) / float64(2400*units.MHz), Dynamic: o.p})
	}
	return c
}

func TestNode(t *testing.T) {
	n := Start(t, Config{CoresPerSocket: 2, Curve: curve(), Meter: true})
	r, err := n.Run(t.Context(), "sh", "-c", "uname -a; cat /sys/devices/system/cpu/cpu*/cpuidle/state*/name /sys/devices/system/cpu/cpufreq/policy*/scaling_*; cat /sys/class/hwmon/*/device/power1_average; dmesg | tail -20")
	t.Logf("%s%s %v", r.Stdout, r.Stderr, err)
}
