package calibrate

import (
	"context"
	"time"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/sim"
)

// Simulated is the load and the time of a simulated machine.
type Simulated struct {
	Machine *sim.Machine
	// Bound is the share of the memory worker's work that scales with the clock.
	Bound float64

	pinned []*sim.Pinned
}

var (
	_ Load  = (*Simulated)(nil)
	_ Clock = (*Simulated)(nil)
	_ Clock = Wall{}
)

// Start implements Load.
func (s *Simulated) Start(cpus cpuset.Set, memory bool) error {
	s.Stop()
	bound := 1.0
	if memory {
		bound = s.Bound
	}
	for c := range cpus.All() {
		p, err := s.Machine.Pin(c, bound)
		if err != nil {
			return err
		}
		s.pinned = append(s.pinned, p)
	}
	return nil
}

// Work implements Load.
func (s *Simulated) Work() (steps float64, ran time.Duration) {
	for _, p := range s.pinned {
		steps += p.Work()
		ran += p.Ran()
	}
	return steps, ran
}

// Stop implements Load.
func (s *Simulated) Stop() {
	for _, p := range s.pinned {
		p.End()
	}
	s.pinned = nil
}

// kick is longer than any state takes to leave.
const kick = 10 * time.Millisecond

// Kick implements Load.
func (s *Simulated) Kick(cpus cpuset.Set) error {
	kicker := Simulated{Machine: s.Machine}
	defer kicker.Stop()
	if err := kicker.Start(cpus, false); err != nil {
		return err
	}
	s.Machine.Advance(kick)
	return nil
}

// Now implements Clock.
func (s *Simulated) Now() time.Time { return s.Machine.Now() }

// Sleep implements Clock.
func (s *Simulated) Sleep(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.Machine.Advance(d)
	return nil
}
