package daemon

import (
	"time"

	"github.com/powerd/powerd/placement"
)

// Tick is the whole product: one look at the machine, one decision, one apply.
// It must be called from one goroutine.
func (d *Daemon) Tick(now time.Time) *Snapshot {
	began := cpuTime()
	seen := d.observe(now) // one immutable reading of files, meters, cgroups

	d.model = d.model.learn(d.last, seen) // a new value each time

	plan := d.plan(seen) // one decision

	d.forget(d.last, seen) // cgroups that are gone
	changes := d.difference(plan, seen)
	outcome := d.apply(changes) // journalled, ordered, read back

	interval := d.model.account(d.last, seen) // exact
	d.ledger = d.ledger.Add(interval)
	d.model = d.model.charge(seen, interval)

	d.last = seen
	snap := d.snapshot(seen, plan, outcome, interval, cpuTime()-began)
	d.published.Store(snap) // the CLI and the API are views of it
	return snap
}

// PlaceNow is the part of a tick that decides and applies, for a cgroup that has just come.
// What was learned stays, and so does what the next tick measures. As Tick, it must be
// called from that one goroutine; others call Place.
func (d *Daemon) PlaceNow(now time.Time) {
	d.between = true
	defer func() { d.between = false }()
	clear(d.observer.files) // a newcomer may have an old one's name
	seen := d.observe(now)
	d.apply(d.difference(d.plan(seen), seen)) // what failed the next tick tries and tells
}

// plan is what is to be done about what was seen.
func (d *Daemon) plan(seen *Seen) *placement.Plan {
	input := d.probing.hide(d.model.input(d.config, seen, d.limits), d.lastPlan, seen.Hardware, d.ticks)
	plan := d.decide(input)                                                    // pure; not asked again while the input stands
	return d.probing.look(plan, input, seen.Hardware, d.model.bounds, d.ticks) // now and then at another clock
}
