package sim

import (
	"math"
	"testing"
	"time"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/units"
)

// A pinned thread works on its cpu alone, at the clock's speed for the part of its work
// that the clock bounds, and leaves no file and no task.
func TestPin(t *testing.T) {
	curve := cpufreq.Curve{OPPs: []cpufreq.OPP{
		{Frequency: units.GHz, Speed: 0.5, Dynamic: 400 * units.Milliwatt, Static: 100 * units.Milliwatt},
		{Frequency: 2 * units.GHz, Speed: 1, Dynamic: 900 * units.Milliwatt, Static: 100 * units.Milliwatt},
	}}
	idle := []cstates.Model{{Name: "C1", Power: 10 * units.Milliwatt}}
	m, err := New(Config{Spec: FromCurve("two", curve, idle, 1, 2, 0), Governor: "powersave"})
	if err != nil {
		t.Fatal(err)
	}
	before := m.Knobs()
	m.Advance(time.Second)
	start, _, _ := m.Energy()
	computing, err := m.Pin(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	m.Advance(10 * time.Second)
	end, _, _ := m.Energy()
	if w := computing.Work(); math.Abs(w-5) > 1e-6 {
		t.Errorf("10 s at half the speed are %g s of work, want 5", w)
	}
	if r := computing.Ran(); r != 10*time.Second {
		t.Errorf("it ran for %v, want 10 s", r)
	}
	// 500 mW of the busy core and 10 mW of the idle one, by hand.
	if got := float64(end-start) / 1e9; math.Abs(got-5.1) > 1e-6 {
		t.Errorf("it cost %g J, want 5.1", got)
	}
	beside, err := m.Pin(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	m.Advance(10 * time.Second)
	if w := beside.Work(); math.Abs(w-2.5) > 1e-6 {
		t.Errorf("on a cpu that another thread shares %g s are done in 10, want 2.5", w)
	}
	beside.End()
	computing.End()
	waiting, err := m.Pin(0, 0.25)
	if err != nil {
		t.Fatal(err)
	}
	m.Advance(10 * time.Second)
	if w := waiting.Work(); math.Abs(w-8) > 1e-6 { // a second of it takes 0.25/0.5 + 0.75 s
		t.Errorf("of work a quarter of which the clock bounds, %g s are done, want 8", w)
	}
	waiting.End()
	start, _, _ = m.Energy()
	m.Advance(10 * time.Second)
	if end, _, _ = m.Energy(); math.Abs(float64(end-start)/1e9-0.2) > 1e-6 {
		t.Errorf("at rest it costs %g J, want 0.2", float64(end-start)/1e9)
	}
	for _, task := range m.tasks {
		if task.group != nil {
			t.Errorf("task %d is left", task.id)
		}
	}
	if len(m.groups) != 1 || len(before) != len(m.Knobs()) {
		t.Errorf("%d groups and %d files are left", len(m.groups)-1, len(m.Knobs())-len(before))
	}
	if _, err := m.Pin(7, 1); err == nil {
		t.Error("a thread is pinned to a cpu that is not there")
	}
	if _, err := m.Pin(0, 2); err == nil {
		t.Error("twice the work is bound by the clock")
	}
}
