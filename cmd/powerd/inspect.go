//go:build !powerd_oci

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/powerd/powerd/acpi"
	"github.com/powerd/powerd/containers"
	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/topology"
)

func newInspectCmd(u *ui) *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:   "inspect",
		Short: "Print what this machine is and which energy controls it offers",
		Args:  noArgs,
	}
	cmd.Flags().StringVar(&root, "root", "/", "folder the machine's sys and proc are below")
	output := outputFlag(cmd, "table", "json")
	cmd.RunE = func(*cobra.Command, []string) error {
		m, err := openMachine(root)
		if err != nil {
			return err
		}
		defer m.Close()
		doc := inspect(m)
		if output.value == "json" {
			return u.json(doc)
		}
		u.sections(doc.sections())
		return nil
	}
	return cmd
}

// openMachine opens the machine below a folder.
func openMachine(folder string) (*sysfs.Dir, error) {
	const hint = "name a folder that holds sys or proc, like / or an unpacked capture"
	m, err := sysfs.Host(folder)
	if err != nil {
		return nil, withHint(err, hint)
	}
	for _, dir := range []string{"sys", "proc", "cgroup"} {
		if _, err := m.ReadDir(dir); err == nil {
			return m, nil
		}
	}
	m.Close()
	return nil, withHint(fmt.Errorf("cannot open machine root: %s holds neither sys nor proc", folder), hint)
}

// A machine is all that inspect knows. Absent is null.
type machine struct {
	*topology.Topology
	CPUFreq    *frequencies        `json:"cpufreq"`
	CPUIdle    *cstates.System     `json:"cpuidle"`
	Powercap   []energy.Zone       `json:"powercap"`
	Energy     meters              `json:"energy"`
	Supplies   []energy.Supply     `json:"power_supply"`
	Thermal    *energy.Thermal     `json:"thermal"`
	Hwmon      []energy.Chip       `json:"hwmon"`
	Cgroup     *containers.Cgroups `json:"cgroup"`
	Allowed    *cpuset.Set         `json:"self_cpus_allowed_list"`
	ACPI       *acpi.Info          `json:"acpi"`
	Hypervisor *guest              `json:"hypervisor"`
	Warnings   []sysfs.Warning     `json:"warnings"`
}

// frequencies adds to cpufreq which cpus it leaves out.
type frequencies struct {
	*cpufreq.System
	Without *cpuset.Set `json:"online_cpus_without_policy"`
}

// meters are the places that tell energy, and those that powerd would use.
type meters struct {
	Meters []energy.Meter `json:"meters"`
	Best   *energy.Source `json:"best"`
}

// guest is the hypervisor, and the controls that it keeps to itself.
type guest struct {
	topology.Hypervisor
	Missing []string `json:"controls_missing"`
}

func inspect(fs sysfs.FS) *machine {
	r := sysfs.NewReader(fs)
	m := &machine{
		Topology: topology.Read(r),
		Powercap: energy.ReadZones(r),
		Energy:   meters{Meters: energy.Discover(r)},
		Supplies: energy.ReadSupplies(r),
		Thermal:  energy.ReadThermal(r),
		Hwmon:    energy.ReadChips(r),
		Cgroup:   containers.ReadMode(r),
		Allowed:  containers.SelfAllowed(r),
		ACPI:     acpi.Read(r),
	}
	m.Energy.Best = energy.Best(m.Energy.Meters)
	m.CPUIdle = cstates.Read(r, m.Online)
	if f := cpufreq.Read(r); f != nil {
		m.CPUFreq = &frequencies{System: f}
		without := m.Online
		for _, p := range f.Policies {
			without = without.Minus(p.CPUs())
		}
		if !without.Empty() {
			m.CPUFreq.Without = &without
		}
	}
	h := topology.ReadHypervisor(r)
	if h == nil {
		h = hypervisorOf(m.ACPI)
	}
	if h != nil {
		m.Hypervisor = &guest{*h, m.missing()}
	}
	m.Warnings = append([]sysfs.Warning{}, r.Warnings()...)
	return m
}

// hypervisorOf finds the hypervisor that an FADT names; nil where none does.
func hypervisorOf(info *acpi.Info) *topology.Hypervisor {
	for _, file := range slices.Sorted(maps.Keys(info.FADT)) {
		if id := info.FADT[file].HypervisorID; id != nil && *id != "" {
			return &topology.Hypervisor{Name: strings.ToLower(*id), Evidence: "hypervisor vendor of " + file}
		}
	}
	return nil
}

// missing names the controls that real hardware of this kind would have.
func (m *machine) missing() []string {
	out := []string{}
	if m.CPUFreq == nil || len(m.CPUFreq.Policies) == 0 {
		out = append(out, "cpufreq: the clock is the host's")
	}
	// haltpoll is the guest's way to give idle cpus back, not a state of hardware.
	if m.CPUIdle == nil || len(m.CPUIdle.Tables) == 0 || text(m.CPUIdle.Driver) == "haltpoll" {
		out = append(out, "cpuidle: idle cpus go back to the host, which chooses how they sleep")
	}
	if m.Energy.Best == nil {
		out = append(out, "energy: no meter, what the guest uses can only be modelled")
	}
	return out
}
