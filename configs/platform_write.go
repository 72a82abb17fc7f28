package configs

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/units"
)

// FormatPlatform writes a platform as a file that ParsePlatform reads back as the same but
// for rounding: powers to the microwatt, times to the nanosecond, shares and speeds to six
// digits.
func FormatPlatform(p energy.Platform) []byte {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	power := func(v units.Power) string { return strconv.FormatFloat(float64(v), 'f', 0, 64) + "uW" }
	seconds := func(v units.Seconds) string { return decimal(float64(v)*1e6, 3) + "us" }
	line("name: %s", quote(p.Name))
	line("source: %s", quote(p.Source))
	if p.MeasuredOn != nil {
		line("measured_on: {model: %s, cpus: %q}", quote(p.MeasuredOn.Model), p.MeasuredOn.CPUs)
	}
	line("opps:")
	for _, o := range p.Curve.OPPs {
		// Speeds are relative to the fastest, which is 1000.
		cost := "power: " + power(o.Active())
		if !o.Measured {
			cost = fmt.Sprintf("dynamic: %s, static: %s", power(o.Dynamic), power(o.Static))
		}
		line("  - {freq: %dkHz, perf: %s, %s}", o.Frequency, decimal(1000*o.Speed, 3), cost)
	}
	switch p.Awake {
	case energy.AwakeSpin:
		line("awake_idle: spin")
	case energy.AwakePower:
		line("awake_idle: %s", power(p.AwakePower))
	default:
		line("awake_idle: gated")
	}
	line("idle:")
	if len(p.Idle) == 0 {
		line("  []")
	}
	for _, s := range p.Idle {
		line("  - {name: %s, power: %s, entry: %s, exit: %s, residency: %s, transition_energy: %suJ}", quote(s.Name), power(s.Power),
			seconds(s.Entry), seconds(s.Exit), seconds(s.Residency), decimal(float64(s.Transition), 3))
	}
	if c := p.Cluster; c != nil {
		line("cluster: {cores: %d, power: %s, sleep_power: %s}", c.Cores, power(c.Power), power(c.Sleep))
	}
	var work []string
	for _, w := range p.Workload.Work {
		work = append(work, seconds(w))
	}
	jobs := strings.Join(work, ", ")
	if len(work) != 1 {
		jobs = "[" + jobs + "]"
	}
	line("workload: {work: %s, window: %s, cpu_bound: %s, stall_dynamic: %s, can_sleep: %t}", jobs, seconds(p.Workload.Window),
		decimal(p.Workload.CPUBound, 6), decimal(p.Workload.Stall, 6), p.Workload.CanSleep)
	return []byte(b.String())
}

// quote writes text as a YAML double-quoted scalar, which is how Go quotes printable text.
func quote(s string) string { return strconv.QuoteToGraphic(s) }

// decimal prints a number with so many decimals at the most.
func decimal(v float64, digits int) string {
	s := strconv.FormatFloat(v, 'f', digits, 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}
