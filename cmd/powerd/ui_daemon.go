//go:build !powerd_oci

package main

// What the daemon's commands print, by the rules of ui.go.

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/powerd/powerd/internal/bench"
	"github.com/powerd/powerd/internal/daemon"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/units"
	"github.com/powerd/powerd/placement"
)

// restored says what became of the files at the end, in numbers and, where
// something is not as it was, by name.
func (u *ui) restored(outcomes []sysfs.Restored) {
	count := map[string]int{}
	for _, o := range outcomes {
		count[o.Outcome]++
	}
	for _, o := range outcomes {
		switch o.Outcome {
		case sysfs.OutcomeKept:
			u.notef("left %s to whoever changed it: %s", o.File, o.Detail)
		case sysfs.OutcomeAsGood:
			u.notef("%s does not hold its first value: %s", o.File, o.Detail)
		case sysfs.OutcomeFailed:
			u.notef("cannot restore %s: %s", o.File, o.Detail)
		}
	}
	if len(outcomes) > 0 {
		u.notef("restored %d files; %d vanished, %d left to others, %d failed", count[sysfs.OutcomeRestored]+count[sysfs.OutcomeAsGood],
			count[sysfs.OutcomeVanished], count[sysfs.OutcomeKept], count[sysfs.OutcomeFailed])
	}
}

// first says once what the daemon goes by.
func (u *ui) first(s *daemon.Snapshot) {
	u.notef("governing %s: cpus %s, %d clocks, %d containers", s.Machine, s.Online, len(s.Plan.Bands), len(s.Containers))
	u.notef("energy: %s", meterLine(s.Energy))
	if len(s.Suspects) > 0 {
		u.notef("also running, and known to set the same files: %s", strings.Join(s.Suspects, ", "))
	}
	for _, w := range s.Warnings {
		u.notef("%v", w)
	}
}

func meterLine(e daemon.EnergyState) string {
	if len(e.Meters) == 0 {
		return "modelled: " + e.Why
	}
	return fmt.Sprintf("measured by %s (%s)", strings.Join(e.Meters, " + "), e.Why)
}

// tick reports what a tick changed, and nothing when it changed nothing.
func (u *ui) tick(s *daemon.Snapshot) {
	verb := "set"
	if s.DryRun {
		verb = "would set"
	}
	for i, w := range s.Outcome.Done {
		if i == maxRows {
			u.notef("tick %d: %s %d files more", s.Tick, verb, len(s.Outcome.Done)-i)
			break
		}
		u.notef("tick %d: %s %s to %q", s.Tick, verb, w.File, w.Value)
	}
	for _, f := range s.Outcome.Failures {
		if f.Tries == 1 {
			u.notef("cannot set %s to %q: %s", f.File, f.Value, f.Problem)
		}
	}
	for _, d := range s.Outcome.Drift {
		u.notef("%s was changed from %q to %q by somebody else%s", d.File, d.Left, d.Found, suspected(s.Suspects))
	}
}

func suspected(who []string) string {
	if len(who) == 0 {
		return ""
	}
	return " (" + strings.Join(who, " or ") + "?)"
}

func (u *ui) plan(s *daemon.Snapshot) {
	u.sections(append(planSections(s), writesSection(s)))
}

func planSections(s *daemon.Snapshot) []section {
	pools := section{title: "classes"}
	for _, p := range s.Plan.Pools {
		name := p.Class
		if p.Tenant != "" {
			name += ", tenant " + p.Tenant
		}
		pools.row(name, fmt.Sprintf("%s on cpus %s (%d cores), %.2f cores of demand", p.Mode, p.CPUs, p.Cores, p.Demand))
		pools.row("", p.Reason)
	}
	if len(s.Plan.Pools) == 0 {
		pools.row("no cgroup matches a class of the policy")
	}
	bands := section{title: "clocks"}
	for _, g := range sameBands(s.Plan.Bands) {
		bands.row("cpus "+g.cpus, fmt.Sprintf("%v to %v", g.Floor, g.Ceiling), fmt.Sprintf("critical %v", units.Frequency(g.CriticalKHz)))
		bands.row("", g.Reason)
	}
	if len(s.Plan.Bands) == 0 {
		bands.row("the kernel offers no frequency control")
	}
	idle := section{title: "idle"}
	for _, b := range s.Plan.Idle {
		idle.row("cpus "+b.CPUs.String(), fmt.Sprintf("wake within %v", b.MaxExit), b.Reason)
	}
	if len(s.Plan.DisableIdle) > 0 {
		idle.row("off everywhere", strings.Join(s.Plan.DisableIdle, " "))
	}
	cs := section{title: "containers"}
	for _, a := range s.Plan.Assignments {
		cpus, limit := "-", "-"
		if a.CPUs != nil {
			cpus = a.CPUs.String()
		}
		if a.Limit != nil {
			text, _ := a.Limit.MarshalText() // cannot fail
			limit = string(text)
		}
		cs.row(a.ID, "cpus "+cpus, "limit "+limit, a.Reason)
	}
	power := section{title: "power"}
	power.row(fmt.Sprintf("%v modelled under this plan", s.Plan.Power))
	return []section{pools, bands, idle, cs, power}
}

// banded is bands that differ only in their cpus.
type banded struct {
	placement.Band
	cpus string
}

func sameBands(bands []placement.Band) []banded {
	var out []banded
	for _, b := range bands {
		at := slices.IndexFunc(out, func(o banded) bool {
			return o.Floor == b.Floor && o.Ceiling == b.Ceiling && o.CriticalKHz == b.CriticalKHz && o.Reason == b.Reason
		})
		if at < 0 {
			out = append(out, banded{Band: b})
			at = len(out) - 1
		}
		out[at].CPUs = out[at].CPUs.Union(b.CPUs)
		out[at].cpus = out[at].CPUs.String()
	}
	return out
}

func writesSection(s *daemon.Snapshot) section {
	writes := section{title: "writes"}
	for _, w := range s.Outcome.Done {
		writes.row(w.File, fmt.Sprintf("%q", w.Value))
	}
	for _, f := range s.Outcome.Failures {
		writes.row(f.File, fmt.Sprintf("%q", f.Value), "cannot: "+f.Problem)
	}
	if len(writes.rows) == 0 {
		writes.row("none: everything is as planned")
	}
	return writes
}

func (u *ui) status(s *daemon.Snapshot) {
	head := section{title: "daemon"}
	head.row(fmt.Sprintf("pid %d governs %s, tick %d, %d writes, %d failed, %d drifted; %d files to restore at its end",
		s.Pid, s.Machine, s.Tick, s.Counters.Writes, s.Counters.Failures, s.Counters.Drift, s.Pending))
	head.row(fmt.Sprintf("the last tick took %v of cpu time; powerd holds %d MiB of memory", s.CPUTime.Round(10*time.Microsecond), s.Resident>>20))
	if len(s.Suspects) > 0 {
		head.row("also running, and known to set the same files: " + strings.Join(s.Suspects, ", "))
	}
	e := s.Energy
	en := section{title: "energy"}
	en.row(fmt.Sprintf("%v now, %s", e.PowerUW, meterLine(e)))
	en.row(fmt.Sprintf("%v measured, %v modelled since the start", e.MeasuredUJ, e.ModelledUJ))
	en.row(fmt.Sprintf("of that base (idle and shared) %v, outside the classes %v, containers that are gone %v", e.BaseUJ, e.OtherUJ, e.GoneUJ))
	charged := section{title: "charged"}
	for _, c := range s.Containers {
		charged.row(c.ID, c.Class, c.Energy.String(), fmt.Sprintf("%.2f cores", c.Demand), "cpus "+dash(c.CPUs), "cpu.max "+dash(c.Max))
	}
	trouble := section{title: "trouble"}
	for _, d := range s.Outcome.Drift {
		trouble.row(d.File, fmt.Sprintf("powerd left %q, it is %q%s", d.Left, d.Found, suspected(s.Suspects)))
	}
	for _, f := range s.Outcome.Failures {
		trouble.row(f.File, fmt.Sprintf("cannot set to %q: %s (%d tries)", f.Value, f.Problem, f.Tries))
	}
	for _, w := range s.Warnings {
		trouble.row(w.File, w.Problem)
	}
	u.sections(append(append([]section{head, en, charged}, planSections(s)...), trouble))
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// compared shows what the same work came to under each policy, the first being
// powerd, which the others are held against.
func (u *ui) compared(results []bench.Result, c bench.Case) {
	own := results[0]
	t := section{title: "compared"}
	t.row("policy", "energy", "mean power", "x powerd", "deadlines missed", "p99 of requests", "work done")
	for _, r := range results {
		t.row(r.Policy, r.Energy.String(), r.Power().String(), fmt.Sprintf("%.2f", float64(r.Energy)/float64(own.Energy)),
			fmt.Sprintf("%d of %d", r.Missed, r.Due), r.P99.Round(100*time.Microsecond).String(), fmt.Sprintf("%.1f s", r.Work))
	}
	t.row(fmt.Sprintf("the same %v of work, seed %d, on %s; joules are modelled", c.Span, c.Seed, c.Machine.Spec.Name))
	u.sections([]section{t})
}
