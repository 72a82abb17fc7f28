package daemon

import (
	"strings"
	"testing"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/sim"
	"github.com/powerd/powerd/internal/units"
)

// What was measured on this machine goes before the platform file; what is of another
// machine is left out, and that is said.
func TestCalibrated(t *testing.T) {
	cluster := sim.Cluster{Cores: 2, Curve: ladder(), Idle: c1c6}
	m, err := sim.New(sim.Config{Spec: sim.Spec{Name: "sim", Driver: "acpi-cpufreq", Meter: "acpi", Clusters: []sim.Cluster{cluster, cluster}}})
	if err != nil {
		t.Fatal(err)
	}
	file := &energy.Platform{Name: "file", Curve: ladder()}
	measured := func(model string, cpus cpuset.Set) energy.Platform {
		p := energy.Platform{Name: "measured", Curve: ladder(), Cluster: &energy.Cluster{Cores: 2, Power: 123 * units.Milliwatt},
			MeasuredOn: &energy.Machine{Model: model, CPUs: cpus}}
		for i := range p.Curve.OPPs {
			p.Curve.OPPs[i].Dynamic = 77 * units.Milliwatt
		}
		return p
	}
	for _, tt := range []struct {
		name     string
		given    energy.Platform
		by       [2]bool // each domain goes by it
		problems string
	}{
		{"whole machine", measured("", cpuset.Range(0, 3)), [2]bool{true, true}, ""},
		{"one kind of core", measured("", cpuset.Range(2, 3)), [2]bool{false, true}, ""},
		{"another processor", measured("Z80", cpuset.Range(0, 3)), [2]bool{}, `another processor, "Z80"`},
		{"other cpus", measured("", cpuset.Range(0, 2)), [2]bool{}, "other clocks"},
		{"cpus that are not there", measured("", cpuset.Range(8, 9)), [2]bool{}, "other clocks"},
		{"other clocks", func() energy.Platform {
			p := measured("", cpuset.Range(0, 3))
			p.Curve.OPPs = p.Curve.OPPs[1:]
			return p
		}(), [2]bool{}, "other clocks"},
		{"by hand", energy.Platform{Name: "hand", Curve: ladder()}, [2]bool{}, "does not say on which machine"},
	} {
		h := readHardware(m, file, []energy.Platform{tt.given})
		for i, d := range h.Machine.Domains {
			source, power := "platform file file", file.Curve.OPPs[0].Dynamic
			if tt.by[i] {
				source, power = "measured by powerd calibrate", 77*units.Milliwatt
			}
			if d.Source != source || d.Curve.OPPs[0].Dynamic != power {
				t.Errorf("%s: domain %d goes by %q, %v", tt.name, i, d.Source, d.Curve.OPPs[0].Dynamic)
			}
		}
		n := 0
		for _, by := range tt.by {
			if by {
				n++
			}
		}
		if len(h.Machine.Islands) != n || n > 0 && h.Machine.Islands[0].Awake != 123*units.Milliwatt {
			t.Errorf("%s: islands %+v", tt.name, h.Machine.Islands)
		}
		said := ""
		for _, w := range h.Warnings {
			said += w.String() + "\n"
		}
		if tt.problems == "" && strings.Contains(said, "calibration") || !strings.Contains(said, tt.problems) {
			t.Errorf("%s: it says %q", tt.name, said)
		}
	}
}
