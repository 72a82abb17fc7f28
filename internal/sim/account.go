package sim

import (
	"math"
	"math/bits"
	"time"
)

// What grows with time is kept in whole numbers of 2^-48 of its unit (nanoseconds,
// nanojoules), as is how fast it grows (by the nanosecond). Whole numbers add up to the
// same in any order and in pieces of any length: that an account is read, or brought up
// to date sooner than another time, changes nothing of what comes.
const (
	places        = 48
	one    uint64 = 1 << places
)

// scaled is v, from 0 to 2^15, as such a number, rounded up: so work of a second at a
// third of the speed takes three, and not a nanosecond more.
func scaled(v float64) uint64 {
	v *= float64(one)
	switch {
	case !(v > 0):
		return 0
	case v >= math.MaxInt64:
		return math.MaxInt64
	}
	n := int64(v)
	if float64(n) < v {
		n++
	}
	return uint64(n)
}

// nanos is a power as nanojoules a nanosecond.
func nanos[P ~float64](microwatts P) float64 { return float64(microwatts) / 1e6 }

// A sum is such a number, of 128 bits.
type sum struct{ hi, lo uint64 }

func sumOf(whole int64) sum {
	hi, lo := bits.Mul64(uint64(max(whole, 0)), one)
	return sum{hi, lo}
}

// whole is the sum rounded down.
func (s sum) whole() int64 { return int64(s.hi<<(64-places) | s.lo>>places) }

func (s sum) plus(rate uint64, dt time.Duration) sum {
	hi, lo := bits.Mul64(rate, uint64(dt))
	lo, carry := bits.Add64(s.lo, lo, 0)
	hi, _ = bits.Add64(s.hi, hi, carry)
	return sum{hi, lo}
}

// minus is s less o, and 0 where that is more.
func (s sum) minus(o sum) sum {
	lo, borrow := bits.Sub64(s.lo, o.lo, 0)
	hi, borrow := bits.Sub64(s.hi, o.hi, borrow)
	if borrow > 0 {
		return sum{}
	}
	return sum{hi, lo}
}

// over is how long the sum lasts at a rate, rounded up.
func (s sum) over(rate uint64) time.Duration {
	if s.hi >= rate {
		return never
	}
	n, rest := bits.Div64(s.hi, s.lo, rate)
	if rest > 0 {
		n++
	}
	return time.Duration(min(n, math.MaxInt64))
}

// An account grows at a rate that only changes at events.
type account struct {
	sum  sum // at the time at
	rate uint64
	at   time.Duration
}

// now is the account at a time not before its last change.
func (a *account) now(t time.Duration) sum { return a.sum.plus(a.rate, t-a.at) }

// change replaces a part of the rate from a time on.
func (a *account) change(t time.Duration, from, to uint64) {
	if t != a.at {
		a.sum, a.at = a.now(t), t
	}
	a.rate += to - from
}

// after is the time d after t, if it comes.
func after(t, d time.Duration) time.Duration {
	if d >= never-t {
		return never
	}
	return t + d
}
