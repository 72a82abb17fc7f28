package limit

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
)

// A Cluster is cores that sleep together, with one clock or each with its own.
type Cluster struct {
	Cores     int
	OwnClocks bool
	// By operating point, what one core does: its speed, in work per second; its power
	// while busy; and the power around the cores while any is busy, in W. Cores with
	// clocks of their own have one power around them, the same at each point. Work of
	// another kind, which stalls on memory, is more points with its speeds and powers.
	Speed, Power, Around []float64
	Idle                 float64 // a core that idles while the cluster is awake, W
	Sleep                float64 // the cluster while all its cores sleep, W
}

// check refuses what is no cluster.
func (c Cluster) check() error {
	if c.Cores < 1 {
		return fmt.Errorf("it has %d cores, want 1 or more", c.Cores)
	}
	if len(c.Speed) == 0 || len(c.Power) != len(c.Speed) || len(c.Around) != len(c.Speed) {
		return fmt.Errorf("it has %d speeds, %d powers and %d powers around its cores, want as many of each", len(c.Speed), len(c.Power), len(c.Around))
	}
	good := func(v float64) bool { return v >= 0 && !math.IsInf(v, 0) }
	for i, s := range c.Speed {
		switch {
		case !good(s) || s == 0:
			return fmt.Errorf("point %d: its speed is %v, want more than 0", i+1, s)
		case !good(c.Power[i]) || !good(c.Around[i]):
			return fmt.Errorf("point %d: want powers of 0 or more, not %v and %v around", i+1, c.Power[i], c.Around[i])
		case c.OwnClocks && c.Around[i] != c.Around[0]:
			return fmt.Errorf("point %d: the power around cores with clocks of their own is %v, and %v at point 1", i+1, c.Around[i], c.Around[0])
		}
	}
	if !good(c.Idle) || !good(c.Sleep) {
		return fmt.Errorf("idle and sleep power are %v and %v, want 0 or more", c.Idle, c.Sleep)
	}
	return nil
}

// rest is what the cluster draws at least with no core busy: some sleep so badly that it
// is better to idle.
func (c Cluster) rest() float64 {
	return min(c.Sleep, float64(c.Cores)*c.Idle+slices.Min(c.Around))
}

// MachineHull returns the least power, in W, with which a machine of clusters keeps a total
// speed on average, with speed 0 for all of them asleep. A cluster draws, with k cores busy
// at a point,
//
//	k power + (cores-k) idle + around
//
// and what it draws with its cores at different points, where they have own clocks or
// different kinds of work, is an average of that. So each cluster's hull is that of these
// points and its sleep, and the machine's is their infimal convolution: all their
// segments, from the flattest to the steepest. The error names the cluster, from 1.
func MachineHull(clusters []Cluster) (Hull, error) {
	if len(clusters) == 0 {
		return Hull{}, errors.New("there is no cluster")
	}
	var sum Point
	var segments []Point // what each adds
	for n, c := range clusters {
		if err := c.check(); err != nil {
			return Hull{}, fmt.Errorf("cluster %d: %w", n+1, err)
		}
		points := []Point{{Power: c.rest()}}
		for i, s := range c.Speed {
			for k := 1; k <= c.Cores; k++ {
				points = append(points, Point{float64(k) * s, float64(k)*c.Power[i] + float64(c.Cores-k)*c.Idle + c.Around[i]})
			}
		}
		h, err := NewHull(points)
		if err != nil {
			return Hull{}, fmt.Errorf("cluster %d: %w", n+1, err)
		}
		sum.Power += h.points[0].Power
		for i := 1; i < len(h.points); i++ {
			segments = append(segments, Point{h.points[i].Speed - h.points[i-1].Speed, h.points[i].Power - h.points[i-1].Power})
		}
	}
	slices.SortStableFunc(segments, func(a, b Point) int { return cmp.Compare(a.Power*b.Speed, b.Power*a.Speed) })
	points := []Point{sum}
	for _, s := range segments {
		sum.Speed, sum.Power = sum.Speed+s.Speed, sum.Power+s.Power
		points = append(points, sum)
	}
	return NewHull(points)
}

// Fluid returns what a trace of utilisation costs at least, in the power's unit times
// seconds, where the work of each of its intervals is done in that interval; false if a
// machine's hull does not reach one of its speeds.
func Fluid(trace []Level, h Hull) (float64, bool) {
	return Energy(h, trace, 0)
}
