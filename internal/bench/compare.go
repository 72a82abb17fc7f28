package bench

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/powerd/powerd/configs"
)

// Rivals are the governors that powerd must not lose to; Governors all that are run.
var (
	Rivals    = []string{"performance", "schedutil", "ondemand"}
	Governors = []string{"performance", "powersave", "schedutil", "ondemand", "conservative"}
)

// Oracle is the Static policy that turned out cheapest of those that did the work in
// time: what one clock chosen with foreknowledge costs.
const Oracle = "oracle-static"

// A Row is one case under every policy.
type Row struct {
	Machine string  `json:"machine"`
	Load    string  `json:"load"`
	Fluid   bool    `json:"fluid"`
	Cores   float64 `json:"cores"`
	Seed    uint64  `json:"seed"`
	// Kind is "modelled" or "measured": where the joules come from.
	Kind string `json:"kind"`
	// Limit is the least that any schedule costs with foreknowledge and free transitions,
	// in joules; 0 where none was computed.
	Limit   float64  `json:"limit_j"`
	Results []Result `json:"results"`
}

// misses is the difference of miss ratios that counts as equal.
const misses = 0.001

// inTime tells whether a policy did a case's work: at most one deadline in a hundred missed
// and every bound on response times kept.
func (r Result) inTime() bool { return r.MissRatio() <= 0.01 && r.Within }

// Result returns a policy's.
func (r Row) Result(policy string) (Result, bool) {
	i := slices.IndexFunc(r.Results, func(o Result) bool { return o.Policy == policy })
	if i < 0 {
		return Result{}, false
	}
	return r.Results[i], true
}

// OverLimit is a result's energy as a multiple of the limit; 0 where there is no limit, or
// the work was not done in time.
func (r Row) OverLimit(o Result) float64 {
	if r.Limit <= 0 || !o.inTime() {
		return 0
	}
	return float64(o.Energy) / 1e6 / r.Limit
}

// A Verdict is how powerd fares against the rivals.
type Verdict struct {
	// Kept tells that no rival that missed as few deadlines, and kept the bounds as powerd
	// did, used less energy.
	Kept bool `json:"kept"`
	// Rival is the cheapest of them, "" without one, and Ratio powerd's energy as a
	// multiple of its.
	Rival string  `json:"rival"`
	Ratio float64 `json:"ratio"`
	// Why not, where the promise is not kept.
	Why string `json:"why,omitempty"`
}

// Verdict judges a row that has powerd and the rivals.
func (r Row) Verdict() Verdict {
	own, ok := r.Result(Powerd)
	if !ok {
		return Verdict{Why: "powerd was not run"}
	}
	v := Verdict{Kept: true}
	least, within := 1.0, false
	var best Result
	for _, name := range Rivals {
		o, ok := r.Result(name)
		if !ok {
			continue
		}
		least = min(least, o.MissRatio())
		within = within || o.Within
		if o.MissRatio() <= own.MissRatio()+misses && (o.Within || !own.Within) && (v.Rival == "" || o.Energy < best.Energy) {
			v.Rival, best = name, o
		}
	}
	if v.Rival != "" {
		v.Ratio = float64(own.Energy) / float64(best.Energy)
	}
	switch {
	case own.MissRatio() > least+misses:
		v.Kept, v.Why = false, fmt.Sprintf("misses %.2f %% of the deadlines, a governor %.2f %%", 100*own.MissRatio(), 100*least)
	case within && !own.Within:
		v.Kept, v.Why = false, fmt.Sprintf("p99 of %v is beyond its bound", own.P99)
	case v.Ratio > 1.001:
		v.Kept, v.Why = false, fmt.Sprintf("%.3f times the energy of %s", v.Ratio, v.Rival)
	}
	return v
}

// Compare runs cases under policies, each case's in their order, several at a time; the
// results do not depend on how many. With Oracle among the policies every Static one is
// run and the cheapest kept. Each gets a row as soon as it is done, in any order, one at a
// time.
func Compare(ctx context.Context, cases []Case, policies []string, config configs.Config, each func(Row)) ([]Row, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	rows := make([]Row, len(cases))
	next := make(chan int)
	var wg sync.WaitGroup
	var one sync.Mutex
	for range min(len(cases), runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := range next {
				row, err := cases[i].compare(ctx, policies, config)
				if err != nil {
					cancel(fmt.Errorf("cannot run %s on %s: %w", cases[i].Load.Name, cases[i].Machine.Name, err))
					return
				}
				one.Lock()
				rows[i] = row
				each(row)
				one.Unlock()
			}
		})
	}
feed:
	for i := range cases {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	wg.Wait()
	return rows, context.Cause(ctx)
}

func (c Case) compare(ctx context.Context, policies []string, config configs.Config) (Row, error) {
	row := Row{Machine: c.Machine.Name, Load: c.Load.Name, Fluid: c.Load.Fluid, Cores: c.Machine.Cores(), Seed: c.Seed, Kind: "modelled"}
	var err error
	if row.Limit, err = c.Limit(); err != nil {
		return row, err
	}
	for _, policy := range policies {
		var r Result
		if policy == Oracle {
			r, err = c.oracle(ctx, config)
		} else {
			r, err = Run(ctx, c, policy, config)
		}
		if err != nil {
			return row, fmt.Errorf("%s: %w", policy, err)
		}
		row.Results = append(row.Results, r)
	}
	return row, nil
}

// oracle returns the cheapest Static policy that does the work in time; the fastest where
// none does.
func (c Case) oracle(ctx context.Context, config configs.Config) (Result, error) {
	most := 0
	for _, cl := range c.Machine.Spec.Clusters {
		most = max(most, len(cl.Curve.OPPs))
	}
	var best Result
	for i := most - 1; i >= 0; i-- {
		r, err := Run(ctx, c, Static(i), config)
		if err != nil {
			return r, err
		}
		if i == most-1 || r.inTime() && (r.Energy < best.Energy || !best.inTime()) {
			best = r
		} else if !r.inTime() {
			break // slower is later still
		}
	}
	best.Policy = Oracle
	return best, nil
}

// A Summary is what rows come to.
type Summary struct {
	Cases int `json:"cases"`
	Kept  int `json:"kept"`
	// MedianFluid is powerd's median energy over the limit in cases whose work is known
	// beforehand or comes evenly, MedianOther in the others; 0 without any.
	MedianFluid float64 `json:"median_x_limit_fluid"`
	MedianOther float64 `json:"median_x_limit_other"`
	// MedianRatio is powerd's median energy over that of the best rival, WorstRatio the
	// highest of them.
	MedianRatio float64 `json:"median_ratio"`
	WorstRatio  float64 `json:"worst_ratio"`
}

// Summarise counts.
func Summarise(rows []Row) (s Summary) {
	var fluid, other, ratios []float64
	for _, r := range rows {
		own, ok := r.Result(Powerd)
		if !ok {
			continue
		}
		s.Cases++
		v := r.Verdict()
		if v.Kept {
			s.Kept++
		}
		if v.Rival != "" {
			ratios = append(ratios, v.Ratio)
			s.WorstRatio = max(s.WorstRatio, v.Ratio)
		}
		if x := r.OverLimit(own); x > 0 {
			if r.Fluid {
				fluid = append(fluid, x)
			} else {
				other = append(other, x)
			}
		}
	}
	s.MedianFluid, s.MedianOther, s.MedianRatio = median(fluid), median(other), median(ratios)
	return s
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// String tells a summary in one line.
func (s Summary) String() string {
	return fmt.Sprintf("powerd keeps its promise in %d of %d cases; median x-limit %.3f (fluid and known jobs), %.3f (others); energy over the best governor: median %.3f, worst %.3f",
		s.Kept, s.Cases, s.MedianFluid, s.MedianOther, s.MedianRatio, s.WorstRatio)
}
