package testbed

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/powerd/powerd/internal/units"
)

const (
	// pollPeriod is how often the harness looks at the P-state ports.
	pollPeriod = 20 * time.Millisecond
	// meterPeriod is the power meter's averaging interval, and for how long the
	// guest's driver keeps a value.
	meterPeriod = 100 * time.Millisecond
)

// A Truth is what the node did since it booted, as only the harness knows it.
type Truth struct {
	// Elapsed is the time of the account.
	Elapsed time.Duration
	// Energy is that of the whole node, Base included.
	Energy units.Energy
	// Domains follow Config.Domains.
	Domains []DomainTruth
}

// A DomainTruth is the account of the cpus that share a clock.
type DomainTruth struct {
	Energy units.Energy
	// Residency is the time in each OPP, by the curve's index.
	Residency []time.Duration
	// Busy is the time the domain's cpus, together, ran at each OPP.
	Busy []time.Duration
}

// Sub returns what happened between the earlier account and t.
func (t Truth) Sub(earlier Truth) Truth {
	out := Truth{Elapsed: t.Elapsed - earlier.Elapsed, Energy: t.Energy - earlier.Energy}
	for i, d := range t.Domains {
		before := earlier.Domains[i]
		diff := DomainTruth{Energy: d.Energy - before.Energy}
		for j := range d.Residency {
			diff.Residency = append(diff.Residency, d.Residency[j]-before.Residency[j])
			diff.Busy = append(diff.Busy, d.Busy[j]-before.Busy[j])
		}
		out.Domains = append(out.Domains, diff)
	}
	return out
}

// An account integrates power. A busy cpu draws the active power of its OPP, an
// idle one Config.IdlePower, the node Config.Base besides.
//
// A vCPU's thread that may use the share q of a host cpu and used c seconds of it
// was busy for c/q. That may exceed the interval by a quota's grain; it is not cut
// off, so that what one interval has too much the next has too little.
type account struct {
	cfg     Config
	elapsed time.Duration
	base    units.Cost
	domains []domainAccount
}

type domainAccount struct {
	energy    units.Cost
	residency []time.Duration
	busy      []time.Duration
}

func newAccount(cfg Config) *account {
	a := &account{cfg: cfg, domains: make([]domainAccount, len(cfg.Domains))}
	for i := range a.domains {
		a.domains[i].residency = make([]time.Duration, len(cfg.Curve.OPPs))
		a.domains[i].busy = make([]time.Duration, len(cfg.Curve.OPPs))
	}
	return a
}

// add accounts an interval of dt, in which domain i was at the curve's OPP opps[i]
// and its cpus used the host cpu time used[i] at the share shares[i] each.
func (a *account) add(dt time.Duration, opps []int, used []time.Duration, shares []float64) {
	a.elapsed += dt
	a.base += a.cfg.Base.Over(units.SecondsOf(dt))
	for i := range a.domains {
		d := &a.domains[i]
		busy := time.Duration(float64(used[i]) / shares[i])
		idle := time.Duration(a.cfg.Domains[i].Len())*dt - busy
		d.residency[opps[i]] += dt
		d.busy[opps[i]] += busy
		d.energy += a.cfg.Curve.OPPs[opps[i]].Active().Over(units.SecondsOf(busy)) +
			a.cfg.IdlePower.Over(units.SecondsOf(idle))
	}
}

func (a *account) energy() units.Cost {
	sum := a.base
	for _, d := range a.domains {
		sum += d.energy
	}
	return sum
}

func (a *account) truth() Truth {
	t := Truth{Elapsed: a.elapsed, Energy: a.energy().Energy()}
	for _, d := range a.domains {
		t.Domains = append(t.Domains, DomainTruth{
			Energy:    d.energy.Energy(),
			Residency: append([]time.Duration(nil), d.residency...),
			Busy:      append([]time.Duration(nil), d.busy...),
		})
	}
	return t
}

// A loop is the hardware around the guest: it reads the P-state each domain asks
// for, slows its vCPUs down to it, accounts the energy and feeds the meter.
type loop struct {
	cfg      Config
	qmp      *qmp
	pid      int
	threads  []int
	throttle *throttle
	stop     chan struct{}
	done     chan struct{}

	mu      sync.Mutex
	account *account
	err     error
}

// startLoop begins to follow the ports. The first state of the node is taken
// before it returns.
func startLoop(cfg Config, q *qmp, pid int, threads []int, t *throttle) (*loop, error) {
	l := &loop{cfg: cfg, qmp: q, pid: pid, threads: threads, throttle: t,
		stop: make(chan struct{}), done: make(chan struct{}), account: newAccount(cfg)}
	opps, shares, err := l.follow()
	if err != nil {
		return nil, err
	}
	used, err := l.used()
	if err != nil {
		return nil, err
	}
	go func() {
		defer close(l.done)
		if err := l.run(opps, shares, used); err != nil {
			l.mu.Lock()
			l.err = err
			l.mu.Unlock()
		}
	}()
	return l, nil
}

func (l *loop) run(opps []int, shares []float64, used []time.Duration) error {
	last := time.Now()
	metered, meteredAt := units.Cost(0), last
	tick := time.NewTicker(pollPeriod)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return nil
		case <-tick.C:
		}
		usedNow, err := l.used()
		if err != nil {
			return err
		}
		now := time.Now()
		delta := make([]time.Duration, len(used))
		for i := range used {
			delta[i] = usedNow[i] - used[i]
		}
		l.mu.Lock()
		l.account.add(now.Sub(last), opps, delta, shares)
		energy := l.account.energy()
		l.mu.Unlock()
		last, used = now, usedNow

		if opps, shares, err = l.follow(); err != nil {
			return err
		}
		if since := now.Sub(meteredAt); l.cfg.Meter && since >= meterPeriod {
			mw := float64(energy-metered) / since.Seconds() / float64(units.Milliwatt)
			if err := l.qmp.writePort16(meterPorts[0], uint16(min(max(math.Round(mw), 0), math.MaxUint16))); err != nil {
				return err
			}
			metered, meteredAt = energy, now
		}
	}
}

// follow gives every vCPU the share of its domain's P-state, and returns the OPP
// (the curve's index) and share of each domain.
func (l *loop) follow() (opps []int, shares []float64, err error) {
	top := len(l.cfg.Curve.OPPs) - 1
	for i, d := range l.cfg.Domains {
		v, err := l.qmp.readPort(pstatePorts[i])
		if err != nil {
			return nil, nil, err
		}
		if int(v) > top {
			return nil, nil, fmt.Errorf("cannot follow domain %d: the guest wrote P-state %d of 0..%d", i, v, top)
		}
		opp := top - int(v)
		share := l.cfg.HostShare * l.cfg.Curve.OPPs[opp].Speed
		for cpu := range d.All() {
			if err := l.throttle.set(int(cpu), share); err != nil {
				return nil, nil, err
			}
		}
		opps, shares = append(opps, opp), append(shares, share)
	}
	return opps, shares, nil
}

// used returns the host cpu time of each domain's vCPUs since they began.
func (l *loop) used() ([]time.Duration, error) {
	out := make([]time.Duration, len(l.cfg.Domains))
	for i, d := range l.cfg.Domains {
		for cpu := range d.All() {
			name := fmt.Sprintf("/proc/%d/task/%d/schedstat", l.pid, l.threads[cpu])
			data, err := os.ReadFile(name)
			if err != nil {
				return nil, fmt.Errorf("cannot account vCPU %d: %w", cpu, err)
			}
			t, err := parseSchedstat(string(data))
			if err != nil {
				return nil, fmt.Errorf("cannot account vCPU %d: %w", cpu, err)
			}
			out[i] += t
		}
	}
	return out, nil
}

// parseSchedstat returns the time on a cpu of a task's schedstat, its first number,
// in ns. (Its stat has clock ticks only.)
//
//	8093466 1066 33
//
// See Documentation/scheduler/sched-stats.rst.
func parseSchedstat(s string) (time.Duration, error) {
	first, _, _ := strings.Cut(strings.TrimSpace(s), " ")
	v, err := strconv.ParseInt(first, 10, 64)
	if err != nil || v < 0 {
		return 0, fmt.Errorf("cannot read schedstat %q: want ns on a cpu first", clip([]byte(s)))
	}
	return time.Duration(v), nil
}

func (l *loop) truth() (Truth, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.account.truth(), l.err
}

// close ends the loop and returns what had ended it before, if anything.
func (l *loop) close() error {
	close(l.stop)
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}
