package sim

import (
	"fmt"
	"path"
	"strconv"
	"syscall"
)

// meter is what firmware makes of the machine's energy.
type meter struct {
	before int64 // nJ at the last second
	power  int64 // uW over the last second
	stuck  string
}

func (mt *meter) second(m *Machine) {
	total := m.total()
	mt.power = (total - mt.before) / 1000
	mt.before = total
}

const raplRange = 262143328850

func (m *Machine) meterFiles() {
	faulty := func(read func() string) func() (string, error) {
		return func() (string, error) {
			if m.faults.Meter > 0 && m.chance.Float64() < m.faults.Meter {
				switch m.chance.IntN(3) {
				case 0:
					return "", syscall.EIO
				case 1:
					return "garbage", nil
				default: // sticks, or jumps back
					if m.meter.stuck == "" {
						m.meter.stuck = read()
					}
					return m.meter.stuck, nil
				}
			}
			return read(), nil
		}
	}
	switch m.spec.Meter {
	case "rapl":
		span := m.spec.Range
		if span == 0 {
			span = raplRange
		}
		m.add(raplDir+"/name", fixed("package-0"), nil)
		m.add(raplDir+"/enabled", fixed(1), nil)
		m.add(raplDir+"/max_energy_range_uj", fixed(span), nil)
		m.addErr(raplDir+"/energy_uj", faulty(func() string { return strconv.FormatUint(uint64(m.total()/1000)%span, 10) }), nil)
	case "acpi":
		m.add(acpiDir+"/name", fixed("power_meter"), nil)
		m.addErr(acpiDir+"/device/power1_average", faulty(func() string { return strconv.FormatInt(m.meter.power, 10) }), nil)
	}
}

// misfortune is what befalls the machine in a second.
func (m *Machine) misfortune() {
	f := m.faults
	if f.Foreign > 0 && m.chance.Float64() < f.Foreign {
		d := m.domains[m.chance.IntN(len(m.domains))]
		name := fmt.Sprintf("%s/cpufreq/policy%d/%s", cpuDir, d.id, []string{"scaling_min_freq", "scaling_max_freq"}[m.chance.IntN(2)])
		v := d.frequency(m.chance.IntN(len(d.curve.OPPs)))
		m.foreign[name] = true
		m.files[name].write(strconv.FormatUint(uint64(v), 10)) //nolint:errcheck // it may be refused
	}
	if f.Hotplug > 0 && len(m.cpus) > 1 && m.chance.Float64() < f.Hotplug {
		p := m.cpus[1+m.chance.IntN(len(m.cpus)-1)]
		m.plug(p, !p.online)
	}
	if f.Churn > 0 && m.chance.Float64() < f.Churn {
		var leaves []*cgroup
		m.root.walk(func(g *cgroup) {
			if g.parent != nil && len(g.children) == 0 {
				leaves = append(leaves, g)
			}
		})
		if len(leaves) > 0 {
			m.recreate(leaves[m.chance.IntN(len(leaves))])
		}
	}
}

// recreate ends a cgroup and makes a new one of the same name for its tasks.
func (m *Machine) recreate(g *cgroup) {
	tasks := append([]*task(nil), g.tasks...)
	for _, t := range tasks {
		m.move(t, g.parent)
	}
	name := path.Join(cgroupDir, g.path)
	if err := m.Remove(name); err != nil {
		return
	}
	if err := m.Mkdir(name); err != nil {
		return
	}
	again := m.find(g.path)
	for _, t := range tasks {
		m.move(t, again)
	}
}
