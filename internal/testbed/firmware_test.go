package testbed

import (
	"strings"
	"testing"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/units"
)

func TestASL(t *testing.T) {
	base := Config{Sockets: 2, CoresPerSocket: 8, Curve: curve(), Domains: []cpuset.Set{cpuset.Range(0, 7), cpuset.Range(8, 15)}}
	portIdle, lies := base, base
	portIdle.PortIdle = true
	lies.Meter = true
	lies.PSSPower = make([]units.Power, 5)
	lies.Idle = []cstates.Model{{Entry: 1e-6, Exit: 1e-6, Power: 250 * units.Milliwatt}}
	for name, tt := range map[string]struct {
		cfg       Config
		has, lack []string
	}{
		"halting": {base, []string{
			`Package () { 2400, 9500, 10, 10, 0, 0 }`,
			`Package () { 800, 2000, 10, 10, 4, 4 }`,
			`Name (CSTP, Package () { 3,`,
			`Package () { ResourceTemplate () { Register (FFixedHW, 0, 0, 0, 0) }, 1, 200, 0 }`,
			`Scope (\_SB.CPUS.C00F)`,
			`Name (_PSD, Package () { Package () { 5, 0, 1, 0xFD, 8 } })`,
			`Register (SystemIO, 8, 0, 0x83, 1)`,
		}, []string{"ACPI000D", "0x84", "0x81"}},
		"by port": {portIdle, []string{
			`Package () { ResourceTemplate () { Register (FFixedHW, 0, 0, 0, 0) }, 1, 2, 0 }`,
			`Package () { ResourceTemplate () { Register (SystemIO, 8, 0, 0x84, 1) }, 2, 50, 0 }`,
			`Package () { ResourceTemplate () { Register (SystemIO, 8, 0, 0x85, 1) }, 3, 200, 0 }`,
		}, nil},
		"lying, metered": {lies, []string{
			`Package () { 2400, 0, 10, 10, 0, 0 }`,
			`Name (CSTP, Package () { 1,`,
			`}, 1, 2, 250 }`,
			`OperationRegion (MTRP, SystemIO, 0x8a, 2)`,
		}, []string{"9500"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := tt.cfg.withDefaults(2)
			if err != nil {
				t.Fatal(err)
			}
			text := asl(cfg)
			for _, want := range tt.has {
				if !strings.Contains(text, want) {
					t.Errorf("it lacks %s", want)
				}
			}
			for _, no := range tt.lack {
				if strings.Contains(text, no) {
					t.Errorf("it has %s", no)
				}
			}
			if t.Failed() {
				t.Log(text)
			}
			if testing.Short() {
				return
			}
			if _, err := compileSSDT(t.Context(), t.TempDir(), cfg); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	ok := func() Config { return Config{CoresPerSocket: 4, Curve: curve()} }
	c, err := ok().withDefaults(2)
	if err != nil || c.HostShare != 0.5 || len(c.Domains) != 4 || c.Memory != 512 || len(c.Idle) != 3 {
		t.Errorf("defaults: %+v, %v", c, err)
	}
	if o, err := c.opp(1); err != nil || o.Frequency != 2000*units.MHz {
		t.Errorf("P1 is %+v, %v", o, err)
	}
	// 0.8 GHz: 2 W / 0.8 = 2.5 J a G-cycle, the least of the curve; with 1 W of
	// idle power given back, 1 / 0.8 is still the least.
	if f := c.Critical(); f != 800*units.MHz {
		t.Errorf("critical at %v", f)
	}
	for want, edit := range map[string]func(*Config){
		"9 frequency domains":          func(c *Config) { c.CoresPerSocket = 9 },
		"7 frequency domains":          func(c *Config) { c.CoresPerSocket, c.Meter = 7, true },
		`hold cpus "0", not "0-3"`:     func(c *Config) { c.Domains = []cpuset.Set{cpuset.Of(0)} },
		"overlaps":                     func(c *Config) { c.Domains = []cpuset.Set{cpuset.Range(0, 3), cpuset.Of(3)} },
		"at least 2":                   func(c *Config) { c.Curve.OPPs = c.Curve.OPPs[:1] },
		"whole MHz":                    func(c *Config) { c.Curve.OPPs[0].Frequency++ },
		"do not ascend at 1200 MHz":    func(c *Config) { c.Curve.OPPs[0].Frequency = 1200 * units.MHz },
		"a speed of 0 at 800 MHz":      func(c *Config) { c.Curve.OPPs[0].Speed = 0 },
		"1 _PSS powers for 5 OPPs":     func(c *Config) { c.PSSPower = make([]units.Power, 1) },
		"9 idle states":                func(c *Config) { c.Idle = make([]cstates.Model, 9) },
		"a host share of 2 is not in ": func(c *Config) { c.HostShare = 2 },
	} {
		c := ok()
		edit(&c)
		if _, err := c.withDefaults(2); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if _, err := (Config{Curve: cpufreq.Curve{}}).withDefaults(2); err == nil {
		t.Error("a node without OPPs is built")
	}
}
