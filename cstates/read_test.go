package cstates

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/sysfs/sysfstest"
)

func TestRead(t *testing.T) {
	m, _ := sysfstest.Tree(t, `
-- sys/devices/system/cpu/cpuidle/current_driver --
intel_idle
-- sys/devices/system/cpu/cpuidle/current_governor_ro --
menu
-- sys/devices/system/cpu/cpuidle/available_governors --
ladder menu 
-- sys/devices/system/cpu/cpu0/cpuidle/state0/name --
POLL
-- sys/devices/system/cpu/cpu0/cpuidle/state0/power --
4294967295
-- sys/devices/system/cpu/cpu1/cpuidle/state0/name --
POLL
-- sys/devices/system/cpu/cpu1/cpuidle/state0/power --
4294967295
-- sys/devices/system/cpu/cpu2/cpuidle/state0/name --
POLL
-- sys/devices/system/cpu/cpu2/cpuidle/state0/power --
4294967295
-- sys/devices/system/cpu/cpu2/cpuidle/state1/name --
C6
-- sys/devices/system/cpu/cpu2/cpuidle/state1/desc --
MWAIT 0x20
-- sys/devices/system/cpu/cpu2/cpuidle/state1/latency --
133
-- sys/devices/system/cpu/cpu2/cpuidle/state1/disable --

-- sys/devices/system/cpu/cpu2/cpuidle/state1/default_status --
enabled
-- sys/devices/system/cpu/cpu2/cpuidle/state1/power --
700
-- sys/devices/system/cpu/cpu3/topology/core_id --
3
-- sys/devices/system/cpu/cpu4/cpuidle/state0/name --
OFFLINE
`)
	r := sysfs.NewReader(m)
	poll0 := State{Name: new("POLL"), Power: new(uint64(4294967295))}
	want := &System{
		Driver: new("intel_idle"), Governor: new("menu"), Governors: []string{"ladder", "menu"},
		Tables: []Table{
			{cpuset.Of(0, 1), []State{poll0}},
			{cpuset.Of(2), []State{poll0, {
				Index: 1, Name: new("C6"), Desc: new("MWAIT 0x20"), Latency: new(uint64(133)),
				DefaultStatus: new("enabled"), Power: new(uint64(700)),
			}}},
		},
		Without: new(cpuset.Of(3)),
	}
	got := Read(r, cpuset.Range(0, 3))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// The empty disable file is unknown, not 0, and costs a warning only.
	if w := r.Warnings(); len(w) != 1 || w[0].File != StateDir(2, 1)+"/disable" {
		t.Errorf("want one warning, of cpu2's disable; got %v", w)
	}
	if p := poll0.KnownPower(); p != nil {
		t.Errorf("4294967295 is no power, got %d mW", *p)
	}
	if p := got.Tables[1].States[1].KnownPower(); p == nil || *p != 700 {
		t.Errorf("want 700 mW, got %v", p)
	}
}

func TestReadNothing(t *testing.T) {
	m, _ := sysfstest.Tree(t, "-- sys/devices/system/cpu/online --\n0-3\n")
	if s := Read(sysfs.NewReader(m), cpuset.Range(0, 3)); s != nil {
		t.Errorf("a machine without cpuidle reads as %+v", s)
	}
}
