package cpufreq

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/sysfs/sysfstest"
	"github.com/powerd/powerd/internal/units"
)

func khz(mhz units.Frequency) *units.Frequency { return new(mhz * units.MHz) }

// policy returns a policy of a driver with limits in MHz.
func policy(driver string, hwMin, hwMax, lo, hi units.Frequency, opps ...units.Frequency) Policy {
	p := Policy{
		Dir: "cpufreq/policy0", Driver: &driver,
		CPUInfoMin: khz(hwMin), CPUInfoMax: khz(hwMax), ScalingMin: khz(lo), ScalingMax: khz(hi),
	}
	for _, f := range opps {
		p.Available = append(p.Available, f*units.MHz)
	}
	return p
}

func TestLimits(t *testing.T) {
	acpi := policy("acpi-cpufreq", 1500, 3739, 1500, 1500, 1500, 2100, 2800)
	acpi.BIOSLimit = khz(2100)
	boosting := policy("cpufreq-dt", 400, 2400, 400, 2000, 400, 1000, 2000)
	boosting.BoostOPPs = []units.Frequency{2400 * units.MHz}
	still := boosting
	still.CPUInfoMax = khz(2000)
	offline := policy("cpufreq-dt", 400, 2000, 400, 2000, 400, 2000)
	offline.Inactive = true
	unknown := policy("cpufreq-dt", 400, 2000, 400, 2000, 400, 2000)
	unknown.ScalingMax = nil
	none := policy("", 400, 2000, 400, 2000, 400, 2000)
	none.Driver = nil

	for _, c := range []struct {
		name           string
		p              Policy
		floor, ceiling units.Frequency // MHz
		want           string
	}{
		{"already there", policy("cpufreq-dt", 400, 2000, 400, 2000, 400, 1000, 2000), 400, 2000, ""},
		{"lower both: min first", policy("cpufreq-dt", 400, 2000, 2000, 2000, 400, 1000, 2000), 400, 1000, "min=400 max=1000"},
		{"raise both: max first", policy("cpufreq-dt", 400, 2000, 400, 400, 400, 1000, 2000), 1000, 2000, "max=2000 min=1000"},
		{"table: floor up, ceiling down", policy("cpufreq-dt", 400, 2000, 400, 2000, 400, 1000, 1500, 2000), 900, 1700, "min=1000 max=1500"},
		{"a band between two OPPs", policy("cpufreq-dt", 400, 2000, 400, 2000, 400, 1000, 2000), 1100, 1200, "min=2000"},
		{"a floor above the ceiling", policy("cpufreq-dt", 400, 2000, 400, 2000, 400, 1000, 2000), 2000, 400, "min=2000"},
		{"beyond the hardware", policy("cpufreq-dt", 400, 2000, 1000, 1000, 400, 1000, 2000), 0, 9000, "max=2000 min=400"},
		{"boost OPPs count while boost is on", boosting, 400, 9000, "max=2400"},
		{"and not while it is off", still, 400, 9000, ""},
		{"acpi: nothing above _PPC", acpi, 1500, 2800, "max=2100"},
		{"acpi: the top entry stands for boost", policy("acpi-cpufreq", 1500, 3739, 1500, 3739, 1500, 2100, 2800), 1500, 3739, ""},
		{"intel_pstate takes any clock", policy("intel_pstate", 400, 4800, 400, 4800), 1234, 4321, "min=1234 max=4321"},
		{"intel_cpufreq too, within the hardware's", policy("intel_cpufreq", 400, 4800, 800, 2000), 100, 5000, "max=4800 min=400"},
		{"amd-pstate", policy("amd-pstate-epp", 400, 5000, 400, 5000), 1700, 3000, "min=1700 max=3000"},
		{"a driver without a table", policy("cppc_cpufreq", 1000, 3000, 1000, 3000), 2000, 2000, "min=2000 max=2000"},
		{"every cpu offline", offline, 2000, 2000, ""},
		{"limits in force unknown", unknown, 2000, 2000, ""},
		{"no driver", none, 2000, 2000, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, w := range c.p.Limits(c.floor*units.MHz, c.ceiling*units.MHz) {
				name := strings.TrimSuffix(strings.TrimPrefix(w.File, "cpufreq/policy0/scaling_"), "_freq")
				got = append(got, name+"="+strings.TrimSuffix(w.Value, "000"))
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got %q, want %q", s, c.want)
			}
		})
	}
}

func TestSteps(t *testing.T) {
	amd := policy("amd-pstate", 400, 800, 400, 800)
	amd.LowestNonlinear = new(units.Frequency(545455))
	for _, c := range []struct {
		name string
		p    Policy
		want []units.Frequency
	}{
		{"table", policy("scmi", 400, 2000, 400, 2000, 400, 1000, 2000), []units.Frequency{400000, 1000000, 2000000}},
		{"ladder", policy("intel_pstate", 450, 800, 450, 800), []units.Frequency{450000, 500000, 600000, 700000, 800000}},
		{"amd's lowest non-linear clock", amd, []units.Frequency{400000, 500000, 545455, 600000, 700000, 800000}},
		{"one clock", policy("intel_pstate", 800, 800, 800, 800), []units.Frequency{800000}},
		{"limits upside down", policy("intel_pstate", 800, 400, 400, 800), nil},
		{"absurd limits", policy("intel_pstate", 0, 1<<40, 400, 800), nil},
	} {
		if diff := cmp.Diff(c.want, c.p.Steps()); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
	}
}

// TestLimitsProperty moves policies of every family through random bands, as a
// kernel that refuses min > max would see it.
func TestLimitsProperty(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	drivers := []string{"acpi-cpufreq", "cpufreq-dt", "intel_pstate", "intel_cpufreq", "amd-pstate", "amd-pstate-epp", "cppc_cpufreq"}
	for i := range 5000 {
		p := random(rng, drivers[i%len(drivers)])
		floor, ceiling := units.Frequency(rng.IntN(6_000_000)), units.Frequency(rng.IntN(6_000_000))
		where := fmt.Sprintf("%d: %s %v-%v of %v to %v-%v", i, *p.Driver, *p.ScalingMin, *p.ScalingMax, p.Steps(), floor, ceiling)

		for _, w := range p.Limits(floor, ceiling) {
			v, err := strconv.ParseUint(w.Value, 10, 64)
			if err != nil {
				t.Fatalf("%s: wrote %q", where, w.Value)
			}
			f := units.Frequency(v)
			if strings.HasSuffix(w.File, "/scaling_min_freq") {
				p.ScalingMin = &f
			} else {
				p.ScalingMax = &f
			}
			if *p.ScalingMin > *p.ScalingMax {
				t.Fatalf("%s: %v breaks min <= max", where, w)
			}
		}

		steps := p.Steps()
		usable := slices.DeleteFunc(slices.Clone(steps), func(f units.Frequency) bool { return f < *p.ScalingMin || f > *p.ScalingMax })
		if len(p.Available) > 0 && len(usable) == 0 {
			t.Fatalf("%s: no OPP in %v-%v", where, *p.ScalingMin, *p.ScalingMax)
		}
		top := steps[len(steps)-1]
		if floor <= ceiling && len(usable) > 0 && usable[0] < min(floor, top) {
			t.Fatalf("%s: may run at %v, below its floor", where, usable[0])
		}
		if again := p.Limits(floor, ceiling); len(again) > 0 {
			t.Fatalf("%s: not idempotent: %v", where, again)
		}
	}
}

// random returns a policy with limits that a kernel could show: within the
// hardware's, min <= max, not always on an OPP.
func random(rng *rand.Rand, driver string) Policy {
	low := units.Frequency(200+rng.IntN(1500)) * units.MHz
	high := low + units.Frequency(rng.IntN(4000))*units.MHz
	p := Policy{Dir: "cpufreq/policy0", Driver: &driver, CPUInfoMin: &low, CPUInfoMax: &high}
	a := low + units.Frequency(rng.IntN(int(high-low)+1))
	b := a + units.Frequency(rng.IntN(int(high-a)+1))
	p.ScalingMin, p.ScalingMax = &a, &b
	if driver == "acpi-cpufreq" || driver == "cpufreq-dt" {
		p.Available = []units.Frequency{low, high}
		for range rng.IntN(12) {
			p.Available = append(p.Available, low+units.Frequency(rng.IntN(int(high-low)+1)))
		}
		slices.Sort(p.Available)
		p.Available = slices.Compact(p.Available)
		if rng.IntN(2) == 0 {
			limit := p.Available[rng.IntN(len(p.Available))]
			p.BIOSLimit = &limit
		}
	}
	return p
}

func TestCrosses(t *testing.T) {
	m, _ := sysfstest.Tree(t, "-- p/scaling_min_freq --\n800000\n-- p/scaling_max_freq --\n1600000\n-- q/scaling_min_freq --\n<unknown>\n")
	for _, tt := range []struct{ file, value, other string }{
		{"p/scaling_min_freq", "1600000", ""},
		{"p/scaling_min_freq", "1600001", "p/scaling_max_freq"},
		{"p/scaling_max_freq", "800000\n", ""},
		{"p/scaling_max_freq", "799999\n", "p/scaling_min_freq"},
		{"p/scaling_max_freq", "2400000", ""},
		{"q/scaling_max_freq", "1", ""}, // nothing to hold it against
		{"q/scaling_min_freq", "1", ""},
		{"p/scaling_governor", "1", ""},
	} {
		other, err := Crosses(m, sysfs.Write{File: tt.file, Value: tt.value})
		if other != tt.other || (err != nil) != (tt.other != "") {
			t.Errorf("%s < %s: %q, %v; want %q", tt.file, tt.value, other, err, tt.other)
		}
	}
}
