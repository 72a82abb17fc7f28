// Package placement decides: which cpus a container runs on, in which band of
// frequencies, how deep its cpus may sleep and how much cpu time it gets, for the
// fewest joules within each class's bound.
//
// It is pure. Decide takes an Input and returns a Plan; it knows no clock, file,
// goroutine or logger, and deciding again on its own result changes nothing.
//
// The power of a candidate is
//
//	P = sum over cores of  sleep + u (active(f) - sleep)
//	  + sum over islands of asleep + (awake - asleep) (1 - product over cores of (1-u))
//
// where u is the share of time a core is busy, and an island is a part of the
// machine (a cache, a cluster, a package) that stays awake while any of its cores
// does. Every operating point and every sensible number of cores is priced; the
// cheapest that carries the load wins.
package placement
