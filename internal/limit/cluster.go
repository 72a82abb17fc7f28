package limit

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
)

// maxTogether bounds the jobs that Discrete takes at once: its matrix has up to three rows
// for each.
const maxTogether = 150

// Discrete returns what jobs cost at least on one cluster, in J, from the first release to
// the last deadline; false if it cannot do them. Jobs move between its cores, the clock
// changes and the cluster sleeps at any time and at no cost. All work is of one kind.
//
// This is the linear program of the time y that each job runs in each interval between
// releases and deadlines, at each point, and of the time Y that the cluster is at it:
//
//	y <= Y,  sum of y over jobs <= cores Y,  sum of Y over points <= length
//
// A way to spend a moment, such as four jobs at point 2, is a vertex of that, and by
// McNaughton's rule the times in ways make all of it. The program of ways has only a row for
// each job and interval, and too many columns to list; but the one that pays best is found
// by sorting, since all jobs at a point cost the same. And any prices of the jobs' work
// give a bound: what the work is worth, less what the best ways would earn. When the
// schedule at hand costs no more, it is optimal.
//
// See McNaughton, Scheduling with deadlines and loss functions (Management Science 1959);
// Dantzig and Wolfe, Decomposition principle for linear programs (Operations Research 1960).
func Discrete(jobs []Job, c Cluster) (joules float64, ok bool, err error) {
	if err := c.check(); err != nil {
		return 0, false, err
	}
	if err := check(jobs); err != nil {
		return 0, false, err
	}
	joules = c.rest() * Horizon(jobs)
	for _, together := range apart(jobs) {
		if len(together) > maxTogether {
			return 0, false, fmt.Errorf("%d jobs whose times overlap take too long: want at most %d", len(together), maxTogether)
		}
		p := newSimplex(together, c)
		if ok, err := p.start(); !ok || err != nil {
			return 0, false, err
		}
		least, err := p.optimize()
		if err != nil {
			return 0, false, err
		}
		joules += least
	}
	return joules, true, nil
}

// apart are sets of jobs with work, each done before the next is released.
func apart(jobs []Job) [][]Job {
	todo := slices.DeleteFunc(slices.Clone(jobs), func(j Job) bool { return j.Work == 0 })
	slices.SortFunc(todo, func(a, b Job) int { return cmp.Compare(a.Release, b.Release) })
	var out [][]Job
	until := math.Inf(-1)
	for _, j := range todo {
		if j.Release >= until {
			out = append(out, nil)
		}
		until = max(until, j.Deadline)
		out[len(out)-1] = append(out[len(out)-1], j)
	}
	return out
}

// A simplex is that linear program in the revised simplex method. Its rows are the jobs, each
// of which is to be done, and the intervals, no more than each of which may be spent.
type simplex struct {
	jobs    []Job
	lengths []float64 // of intervals, s
	active  [][]int   // jobs, by interval
	c       Cluster
	missing bool // what counts is the work that is not done, and not what it costs
	// Rows and columns are scaled to shares of a job and of an interval, so on the right
	// is 1, but for a trifle: without it the method may run in circles.
	right   []float64
	basis   []column
	inverse [][]float64 // of the basis
	x       []float64   // of each column of the basis
}

// A column is a way to spend an interval, or what is left over or missing in a row.
type column struct {
	rows    []int
	values  []float64
	cost    float64 // J
	missing float64 // work that is not done, as a share of its job
}

const (
	trifle  = 1e-9  // by which rows differ from 1, at most
	nothing = 1e-12 // what rounding leaves of 1
	smooth  = 0.9   // how near to the prices of the best bound columns are looked for
	precise = 1e-9  // by which the least energy may be missed, as a share
)

func newSimplex(jobs []Job, c Cluster) *simplex {
	p := &simplex{jobs: jobs, c: c}
	times := borders(jobs)
	for i := range len(times) - 1 {
		var here []int
		for j := range jobs {
			if active(jobs[j], times, i) {
				here = append(here, j)
			}
		}
		p.lengths, p.active = append(p.lengths, times[i+1]-times[i]), append(p.active, here)
	}
	rows := len(jobs) + len(p.lengths)
	for r := range rows {
		// Spread evenly, and never towards what cannot be done.
		_, part := math.Modf(float64(r+1) * math.Phi)
		col := column{rows: []int{r}, values: []float64{1}}
		if r < len(jobs) {
			part, col.missing = -part, 1
		}
		p.basis, p.right = append(p.basis, col), append(p.right, 1+trifle*part)
		p.inverse = append(p.inverse, make([]float64, rows))
		p.inverse[r][r] = 1
	}
	p.x = slices.Clone(p.right)
	return p
}

// start finds a schedule, from one that does nothing; false if there is none.
func (p *simplex) start() (bool, error) {
	p.missing = true
	if _, err := p.optimize(); err != nil || p.sum() > nothing {
		return false, err
	}
	p.missing = false
	for r, col := range p.basis {
		if col.missing > 0 { // instead of nothing that is missing, nothing is left over
			p.basis[r] = column{rows: col.rows, values: []float64{-1}}
			p.x[r] = 0
			for k := range p.inverse[r] {
				p.inverse[r][k] *= -1
			}
		}
	}
	return true, nil
}

func (p *simplex) cost(c column) float64 {
	if p.missing {
		return c.missing
	}
	return c.cost
}

func (p *simplex) sum() (sum float64) {
	for r, col := range p.basis {
		sum += p.cost(col) * p.x[r]
	}
	return sum
}

// optimize returns the least cost, from below. While it looks for a start it stops once
// nothing is missing, or something must be.
//
// Prices of the basis swing; columns are looked for at prices between them and those of the
// best bound yet, and only where that finds none, at themselves.
//
// See Pessoa, Sadykov, Uchoa and Vanderbeck, Automation and combination of linear-programming
// based stabilization techniques in column generation (INFORMS Journal on Computing 2018).
func (p *simplex) optimize() (float64, error) {
	var best []float64 // prices of the best bound
	most, joules := math.Inf(-1), 0.0
	bound := func(prices []float64) []column {
		ways, least, b := p.price(prices)
		if least > most {
			most, joules, best = least, b, slices.Clone(prices)
		}
		return ways
	}
	stuck := false
	for range 200 * len(p.right) { // a few for each row do
		prices, cost := p.prices(), p.sum()
		// Where each column gains less than this, all together do not matter.
		enough := max(precise*cost, nothing) / float64(len(p.right))
		pivots := 0
		for share := smooth; pivots == 0; share = 0 {
			at := prices
			if share > 0 && best != nil {
				at = make([]float64, len(prices))
				for r := range at {
					at[r] = share*best[r] + (1-share)*prices[r]
				}
			}
			ways := bound(at)
			if p.missing && (cost <= nothing || most > nothing) || !p.missing && cost-most <= precise*cost {
				return joules, nil
			}
			for r, price := range prices {
				if sign := p.sign(r); sign*price < 0 {
					ways = append(ways, column{rows: []int{r}, values: []float64{-sign}})
				}
			}
			pivots = p.improve(ways, prices, enough)
			if share == 0 {
				break
			}
		}
		if pivots == 0 && stuck {
			break
		}
		if stuck = pivots == 0; stuck {
			p.refresh()
		}
	}
	return 0, errors.New("cannot solve the linear program: rounding keeps it from its optimum")
}

// prices are what one more in each row costs.
func (p *simplex) prices() []float64 {
	prices := make([]float64, len(p.right))
	for r, col := range p.basis {
		if c := p.cost(col); c != 0 {
			for k, v := range p.inverse[r] {
				prices[k] += c * v
			}
		}
	}
	return prices
}

// sign is that of a row's price: work is worth something, and time costs.
func (p *simplex) sign(row int) float64 {
	if row < len(p.jobs) {
		return 1
	}
	return -1
}

// improve takes columns into the basis, that which gains most first, as long as one gains
// enough. It returns how many.
func (p *simplex) improve(ways []column, prices []float64, enough float64) (pivots int) {
	for {
		gain, at := enough, -1
		for i, w := range ways {
			if g := p.gain(w, prices); g > gain {
				gain, at = g, i
			}
		}
		if at < 0 {
			return pivots
		}
		if p.pivot(ways[at], gain, prices) {
			pivots++
		}
		ways = slices.Delete(ways, at, at+1)
	}
}

// gain is what one of a column earns at prices of the rows, beyond its cost.
func (p *simplex) gain(c column, prices []float64) float64 {
	g := -p.cost(c)
	for k, r := range c.rows {
		g += prices[r] * c.values[k]
	}
	return g
}

// price returns the way to spend each interval that earns most at prices of the jobs, if any
// earns; and two bounds of the cost, of the program and of the one without trifles: what the
// work is worth, less what the intervals earn.
func (p *simplex) price(prices []float64) (ways []column, least, bound float64) {
	worth := make([]float64, len(p.jobs)) // of work, per second at speed 1
	place := make([]int, len(p.jobs))     // among them, the dearest first
	dear := make([]int, len(p.jobs))
	for j := range p.jobs {
		v := max(prices[j], 0)
		worth[j], dear[j] = v/p.jobs[j].Work, j
		least += v * p.right[j]
		bound += v
	}
	slices.SortFunc(dear, func(a, b int) int { return cmp.Compare(worth[b], worth[a]) })
	for i, j := range dear {
		place[j] = i
	}
	for i := range p.lengths {
		slices.SortFunc(p.active[i], func(a, b int) int { return cmp.Compare(place[a], place[b]) })
		way, earns := p.way(i, worth)
		least -= earns * p.right[len(p.jobs)+i]
		bound -= earns
		if earns > 0 {
			ways = append(ways, way)
		}
	}
	return ways, least, bound
}

// way returns the way to spend an interval that earns most, and what; none if none earns
// anything. Its jobs are sorted by their worth.
func (p *simplex) way(interval int, worth []float64) (best column, most float64) {
	length := p.lengths[interval]
	jobs := p.active[interval][:min(p.c.Cores, len(p.active[interval]))]
	// What a core adds at a point, and the cluster.
	core := func(i, j int) float64 {
		if p.missing {
			return p.c.Speed[i] * worth[j]
		}
		return p.c.Speed[i]*worth[j] - (p.c.Power[i] - p.c.Idle)
	}
	awake := func(i int) float64 {
		return float64(p.c.Cores)*p.c.Idle + p.c.Around[i] - p.c.rest()
	}
	points := make([]int, len(jobs)) // of each, if clocks are their own
	for i := range p.c.Speed {
		if p.c.OwnClocks {
			if i > 0 {
				break
			}
			for k, j := range jobs {
				for other := range p.c.Speed {
					if core(other, j) > core(points[k], j) {
						points[k] = other
					}
				}
			}
		} else {
			for k := range points {
				points[k] = i
			}
		}
		count, earns, cost := 0, 0.0, awake(i)
		for k, j := range jobs {
			g := core(points[k], j)
			if g <= 0 {
				break
			}
			count++
			earns += g
			cost += p.c.Power[points[k]] - p.c.Idle
		}
		if !p.missing {
			earns -= awake(i)
		}
		if earns *= length; earns <= most {
			continue
		}
		most, best = earns, column{cost: cost * length}
		for k, j := range jobs[:count] {
			best.rows, best.values = append(best.rows, j), append(best.values, p.c.Speed[points[k]]*length/p.jobs[j].Work)
		}
		best.rows, best.values = append(best.rows, len(p.jobs)+interval), append(best.values, 1)
	}
	return best, most
}

// pivot takes a column that gains into the basis, as much of it as there is room for, and
// keeps prices; false if it finds no place.
func (p *simplex) pivot(c column, gain float64, prices []float64) bool {
	d := make([]float64, len(p.basis)) // the column in terms of the basis
	most := 0.0
	for r, row := range p.inverse {
		for k, at := range c.rows {
			d[r] += row[at] * c.values[k]
		}
		most = max(most, math.Abs(d[r]))
	}
	small := 1e-9 * most // may be but what rounding left of 0
	out, room := -1, math.Inf(1)
	for r := range d {
		if d[r] > small {
			room = min(room, (max(p.x[r], 0)+nothing)/d[r])
		}
	}
	// Of the rows that are reached about first, that of the largest number is exact.
	for r := range d {
		if d[r] > small && max(p.x[r], 0)/d[r] <= room && (out < 0 || d[r] > d[out]) {
			out = r
		}
	}
	if out < 0 {
		return false
	}
	step := max(p.x[out], 0) / d[out]
	row := p.inverse[out]
	for k := range row {
		row[k] /= d[out]
		prices[k] -= gain * row[k]
	}
	for r, other := range p.inverse {
		if f := d[r]; r != out && f != 0 {
			p.x[r] -= f * step
			for k, v := range row {
				other[k] -= f * v
			}
		}
	}
	p.basis[out], p.x[out] = c, step
	return true
}

// refresh computes the inverse anew, by Gauss and Jordan: what was rounded has summed up.
func (p *simplex) refresh() {
	n := len(p.basis)
	left, right := make([][]float64, n), make([][]float64, n)
	for r := range n {
		left[r], right[r] = make([]float64, n), make([]float64, n)
		right[r][r] = 1
	}
	for k, c := range p.basis {
		for i, r := range c.rows {
			left[r][k] = c.values[i]
		}
	}
	for k := range n {
		pivot := k
		for r := k; r < n; r++ {
			if math.Abs(left[r][k]) > math.Abs(left[pivot][k]) {
				pivot = r
			}
		}
		if left[pivot][k] == 0 {
			return // rounding has the last word
		}
		left[k], left[pivot] = left[pivot], left[k]
		right[k], right[pivot] = right[pivot], right[k]
		f := left[k][k]
		for i := range n {
			left[k][i] /= f
			right[k][i] /= f
		}
		for r := range n {
			if f := left[r][k]; r != k && f != 0 {
				for i := range n {
					left[r][i] -= f * left[k][i]
					right[r][i] -= f * right[k][i]
				}
			}
		}
	}
	p.inverse = right
	for r, row := range p.inverse {
		p.x[r] = 0
		for k, v := range row {
			p.x[r] += v * p.right[k]
		}
	}
}
