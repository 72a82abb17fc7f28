package energy

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/sysfs/sysfstest"
	"github.com/powerd/powerd/internal/units"
)

func TestDiscover(t *testing.T) {
	archive, err := os.ReadFile("testdata/laptop.txtar")
	if err != nil {
		t.Fatal(err)
	}
	m, _ := sysfstest.Tree(t, string(archive))
	r := sysfs.NewReader(m)
	meters := Discover(r)
	var got []string
	for _, m := range meters {
		line := m.Name + ": " + m.Scope + " " + string(m.Kind) + " at " + m.Path
		if m.DuplicateOf != "" {
			line += " = " + m.DuplicateOf
		}
		if m.Unusable != "" {
			line += " (" + m.Unusable + ")"
		}
		got = append(got, line)
	}
	want := []string{
		"intel-rapl:0 package-0: package energy at sys/class/powercap/intel-rapl:0/energy_uj",
		"intel-rapl:0:0 core: core energy at sys/class/powercap/intel-rapl:0:0/energy_uj",
		"intel-rapl:0:2 dram: dram energy at sys/class/powercap/intel-rapl:0:2/energy_uj",
		"intel-rapl:1 psys: psys energy at sys/class/powercap/intel-rapl:1/energy_uj",
		"intel-rapl-mmio:0 package-0: package energy at sys/class/powercap/intel-rapl-mmio:0/energy_uj = intel-rapl:0 package-0",
		"hwmon0 amdgpu power1: unknown power at sys/class/hwmon/hwmon0/power1_average (it measures a device, not the cpus)",
		"BAT0: node power at sys/class/power_supply/BAT0/power_now (the battery is charging)",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"intel-rapl:0 package-0", "intel-rapl:0:2 dram"}, Best(meters).Names); diff != "" {
		t.Error(diff)
	}
	if w := r.Warnings(); len(w) > 0 {
		t.Errorf("a sound machine warns: %v", w)
	}
	if z := ReadZones(r)[0]; len(z.Constraints) != 1 || *z.Constraints[0].Name != "long_term" || z.Constraints[0].MaxPowerUW != nil {
		t.Errorf("constraints are %+v", z.Constraints)
	}
	chip := ReadChips(r)[1]
	if c := chip.Channels["temp1"]; *chip.Name != "coretemp" || *c.Input != 55000 || *c.Label != "Package id 0" {
		t.Errorf("a chip that keeps its files in device/ reads as %+v", chip)
	}
}

// Two packages with two dies each count for themselves, and so does each dram;
// zones sort by number.
func TestDiscoverServer(t *testing.T) {
	tree := ""
	for zone, name := range map[string]string{
		"intel-rapl:0": "package-0-die-0", "intel-rapl:1": "package-0-die-1", "intel-rapl:2": "package-1-die-0",
		"intel-rapl:10": "package-1-die-1", "intel-rapl:0:0": "dram", "intel-rapl:2:0": "dram", "dtpm:0": "soc",
	} {
		tree += "-- sys/devices/virtual/powercap/intel-rapl/" + zone + "/name --\n" + name + "\n"
		tree += "-- sys/devices/virtual/powercap/intel-rapl/" + zone + "/energy_uj --\n1\n"
	}
	m, _ := sysfstest.Tree(t, tree)
	want := []string{
		"intel-rapl:0 package-0-die-0", "intel-rapl:1 package-0-die-1", "intel-rapl:2 package-1-die-0",
		"intel-rapl:10 package-1-die-1", "intel-rapl:0:0 dram", "intel-rapl:2:0 dram",
	}
	if diff := cmp.Diff(want, Best(Discover(sysfs.NewReader(m))).Names); diff != "" {
		t.Error(diff)
	}
}

func TestBest(t *testing.T) {
	const (
		acpi    = "-- sys/class/hwmon/hwmon3/name --\npower_meter\n-- sys/class/hwmon/hwmon3/device/power1_average --\n3000000\n"
		sockets = "-- sys/class/hwmon/hwmon4/name --\namd_energy\n" +
			"-- sys/class/hwmon/hwmon4/energy1_label --\nEcore000\n-- sys/class/hwmon/hwmon4/energy1_input --\n1\n" +
			"-- sys/class/hwmon/hwmon4/energy2_label --\nEsocket0\n-- sys/class/hwmon/hwmon4/energy2_input --\n9\n" +
			"-- sys/class/hwmon/hwmon4/energy10_label --\nEsocket1\n-- sys/class/hwmon/hwmon4/energy10_input --\n8\n"
		rail    = "-- sys/class/hwmon/hwmon5/name --\nina2xx\n-- sys/class/hwmon/hwmon5/power1_input --\n100\n"
		another = "-- sys/class/hwmon/hwmon6/name --\nina2xx\n-- sys/class/hwmon/hwmon6/power1_input --\n200\n"
		battery = "-- sys/class/power_supply/BAT1/type --\nBattery\n-- sys/class/power_supply/BAT1/current_now --\n-1500000\n" +
			"-- sys/class/power_supply/BAT1/voltage_now --\n10000000\n"
		unplugged = "-- sys/class/power_supply/AC/type --\nMains\n-- sys/class/power_supply/AC/online --\n0\n"
		mmio      = "-- sys/class/powercap/intel-rapl-mmio:0/name --\npackage-0\n-- sys/class/powercap/intel-rapl-mmio:0/energy_uj --\n7\n"
		psys      = "-- sys/class/powercap/intel-rapl:1/name --\npsys\n-- sys/class/powercap/intel-rapl:1/energy_uj --\n7\n"
		unreadble = "-- sys/class/powercap/intel-rapl:0/name --\npackage-0\n"
	)
	for _, c := range []struct{ name, tree, want string }{
		{"nothing", "-- sys/class/hwmon/hwmon0/name --\nx\n", ""},
		{"mmio where MSR cannot be read", unreadble + mmio + acpi, "intel-rapl-mmio:0 package-0"},
		{"psys never", psys + acpi, "hwmon3 power_meter power1"},
		{"sockets and not their cores", sockets + acpi, "hwmon4 amd_energy energy2 Esocket0, hwmon4 amd_energy energy10 Esocket1"},
		{"ACPI before rails", acpi + rail, "hwmon3 power_meter power1"},
		{"one rail before the battery", rail + battery + unplugged, "hwmon5 ina2xx power1"},
		{"of two rails neither", rail + another, ""},
		{"battery on a journey", battery + unplugged, "BAT1"},
		{"battery that does not tell", battery, ""},
	} {
		m, _ := sysfstest.Tree(t, c.tree)
		got := ""
		if b := Best(Discover(sysfs.NewReader(m))); b != nil {
			got = strings.Join(b.Names, ", ")
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestReadMeters(t *testing.T) {
	m, folder := sysfstest.Tree(t, `
-- sys/class/power_supply/BAT1/type --
Battery
-- sys/class/power_supply/BAT1/status --
Discharging
-- sys/class/power_supply/BAT1/current_now --
-1500000
-- sys/class/power_supply/BAT1/voltage_now --
10000000
`)
	s := Best(Discover(sysfs.NewReader(m)))
	start := time.Unix(1000, 0)
	a, err := s.Read(m, start)
	if err != nil || a.Values[0] != 15_000_000 {
		t.Fatalf("1.5 A at 10 V read as %v, %v", a.Values, err)
	}
	if err := os.WriteFile(filepath.Join(folder, "sys/class/power_supply/BAT1/current_now"), []byte("-2500000\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := s.Read(m, start.Add(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if e, why := s.Between(a, b); e == nil || *e != 40*units.Joule {
		t.Errorf("15 W to 25 W for 2 s is 40 J, got %v %s", e, why)
	}
	if err := os.WriteFile(filepath.Join(folder, "sys/class/power_supply/BAT1/voltage_now"), []byte("?\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(m, start); err == nil || !strings.Contains(err.Error(), "cannot read meter sys/class/power_supply/BAT1/voltage_now") {
		t.Errorf("a broken meter reads as %v", err)
	}
}

func TestBetween(t *testing.T) {
	counter := func(span *uint64) Meter { return Meter{Name: "m", Kind: Counter, Range: span} }
	start := time.Unix(1000, 0)
	for _, c := range []struct {
		name string
		m    Meter
		a, b uint64
		dt   time.Duration
		want string
	}{
		{"counts", counter(nil), 100, 350, time.Second, "250 uJ"},
		{"stands still", counter(nil), 100, 100, time.Second, "0 uJ"},
		{"wraps", counter(new(uint64(1000))), 900, 50, time.Second, "150 uJ"},
		{"went back, range unknown", counter(nil), 900, 50, time.Second, "m: the counter went back and its range is not known"},
		{"was beyond its range", counter(new(uint64(500))), 900, 50, time.Second, "m: the counter was beyond its range"},
		{"jumped", counter(nil), 0, math.MaxUint64, time.Second, "m: the counter jumped"},
		{"no time", counter(nil), 0, 1, 0, "no time has passed"},
		{"time ran back", counter(nil), 0, 1, -time.Second, "no time has passed"},
		{"absurd power", Meter{Name: "m", Kind: Gauge}, math.MaxUint64, math.MaxUint64, time.Hour, "m: it shows more than can be"},
	} {
		s := newSource([]Meter{c.m}, "")
		e, got := s.Between(Reading{start, []uint64{c.a}}, Reading{start.Add(c.dt), []uint64{c.b}})
		if e != nil {
			got = e.String()
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	if e, why := newSource([]Meter{counter(nil)}, "").Between(Reading{}, Reading{start, []uint64{1}}); e != nil || why == "" {
		t.Errorf("without an earlier reading: got %v", e)
	}
}

func FuzzMeter(f *testing.F) {
	f.Add("240422366267\n", "118821284256\n", uint64(262143328850))
	f.Add("-26439000", "0", uint64(0))
	f.Fuzz(func(t *testing.T, before, after string, span uint64) {
		a, err1 := parseMeter(before)
		b, err2 := parseMeter(after)
		if err1 != nil || err2 != nil {
			return
		}
		for _, r := range []*uint64{nil, &span} {
			if e, why := counted(a, b, r); e < 0 || b < a && r == nil && why == "" {
				t.Fatalf("from %d to %d in a range of %v: %d %q", a, b, r, e, why)
			}
		}
	})
}
