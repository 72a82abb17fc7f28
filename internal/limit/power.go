package limit

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// A Power gives what a core draws at a speed. It is convex, so that the schedules here
// are optimal for it.
type Power interface {
	// At returns the least power, in its own unit, with which speed is kept on
	// average; false if it cannot be reached.
	At(speed float64) (float64, bool)
}

// A Polynomial is Scale * speed^Exponent: nothing at rest, and no highest speed.
type Polynomial struct{ Scale, Exponent float64 }

// At returns the power at a speed.
func (p Polynomial) At(speed float64) (float64, bool) {
	if speed == 0 {
		return 0, true
	}
	return p.Scale * math.Pow(speed, p.Exponent), true
}

// A Point is a speed that a core has, and what it draws there.
type Point struct{ Speed, Power float64 }

// A Hull is the lower convex hull of a core's speeds: at a speed between two of its
// points the core is now at one and now at the other.
type Hull struct{ points []Point }

// NewHull makes the hull of points, of which one at speed 0 is what idling costs; without
// one that is nothing. The error names the point, from 1.
//
// See Ishihara and Yasuura, Voltage scheduling problem for dynamically variable voltage
// processors (ISLPED 1998).
func NewHull(points []Point) (Hull, error) {
	if len(points) == 0 {
		return Hull{}, fmt.Errorf("there is no speed")
	}
	list := slices.Clone(points)
	for i, p := range list {
		if !(p.Speed >= 0) || !(p.Power >= 0) || math.IsInf(p.Speed, 0) || math.IsInf(p.Power, 0) {
			return Hull{}, fmt.Errorf("point %d: want a speed and a power of 0 or more, not %v and %v", i+1, p.Speed, p.Power)
		}
	}
	if !slices.ContainsFunc(list, func(p Point) bool { return p.Speed == 0 }) {
		list = append(list, Point{})
	}
	slices.SortFunc(list, func(a, b Point) int { return cmp.Or(cmp.Compare(a.Speed, b.Speed), cmp.Compare(a.Power, b.Power)) })
	var h []Point
	for _, p := range list {
		if len(h) > 0 && h[len(h)-1].Speed == p.Speed {
			continue // it costs more
		}
		for len(h) >= 2 {
			a, b := h[len(h)-2], h[len(h)-1]
			if (b.Power-a.Power)*(p.Speed-a.Speed) < (p.Power-a.Power)*(b.Speed-a.Speed) {
				break
			}
			h = h[:len(h)-1]
		}
		h = append(h, p)
	}
	if h[len(h)-1].Speed == 0 {
		return Hull{}, fmt.Errorf("there is no speed above 0")
	}
	if len(h) > 1 && h[1].Power < h[0].Power {
		return Hull{}, fmt.Errorf("idling costs %v, more than %v at speed %v: that is no power of an idle core", h[0].Power, h[1].Power, h[1].Speed)
	}
	return Hull{h}, nil
}

// At returns the hull's power at a speed.
func (h Hull) At(speed float64) (float64, bool) {
	last := h.points[len(h.points)-1]
	if speed > last.Speed*(1+1e-12) {
		return 0, false
	}
	speed = min(speed, last.Speed)
	for i := 1; i < len(h.points); i++ {
		a, b := h.points[i-1], h.points[i]
		if speed <= b.Speed {
			return a.Power + (b.Power-a.Power)*(speed-a.Speed)/(b.Speed-a.Speed), true
		}
	}
	return last.Power, true
}

// Times returns the hull of n cores that each have this one.
func (h Hull) Times(n int) Hull {
	points := slices.Clone(h.points)
	for i := range points {
		points[i].Speed *= float64(n)
		points[i].Power *= float64(n)
	}
	return Hull{points}
}

// Energy is what times at speeds cost, and idling for the rest of all cores' time; false
// if a speed cannot be reached.
func Energy(p Power, list []Level, total float64) (float64, bool) {
	idle, _ := p.At(0)
	sum := 0.0
	for _, l := range list {
		w, ok := p.At(l.Speed)
		if !ok {
			return 0, false
		}
		sum += w * l.Seconds
		total -= l.Seconds
	}
	return sum + idle*max(total, 0), true
}
