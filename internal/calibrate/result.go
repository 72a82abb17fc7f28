package calibrate

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/units"
)

// A Parameter is what a calibration says of one number.
type Parameter struct {
	// Name says what it is, of which cpus, and at which clock or in which state.
	Name  string           `json:"name"`
	CPUs  *cpuset.Set      `json:"cpus"`
	Clock *units.Frequency `json:"khz"`
	State *string          `json:"state"`
	// Value and its standard Error are microwatts or, of shares and speeds, without a
	// unit; nil where the data cannot tell.
	Unit  string   `json:"unit"`
	Value *float64 `json:"value"`
	Error *float64 `json:"error"`
	// Known tells that three standard errors are within 5 % of the value; Why says why
	// not.
	Known bool   `json:"known"`
	Why   string `json:"why,omitempty"`
}

// Names of parameters.
const (
	NameAsleep  = "machine with every core asleep"
	NameBase    = "machine without its cores"
	NameDeepest = "core in its deepest state"
	NameBusy    = "busy core"
	NameStatic  = "busy core, static part"
	NameDynamic = "busy core, dynamic part"
	NameWaiting = "core waiting for memory"
	NameIdle    = "core in an idle state"
	NameCluster = "cluster with a core awake"
	NamePackage = "package with a core awake"
	NameKept    = "cluster kept up by a core's state"
	NameSpeed   = "speed"
	NameBound   = "part of the memory worker bound by the clock"
	NameStall   = "part of dynamic power left while stalled"
)

// A parameter is known if so many standard errors are within so much of its value. There
// are dozens of parameters, so with two some claim would be wrong now and then.
const (
	within   = 0.05
	standard = 3
)

// A Critical is the critical clock of a kind.
type Critical struct {
	CPUs  cpuset.Set      `json:"cpus"`
	Clock units.Frequency `json:"khz"`
	// Also are the clocks that cost as much within two standard errors.
	Also []units.Frequency `json:"within_error_khz"`
}

// A Result is what a calibration came to.
type Result struct {
	Machine    string      `json:"machine"` // its processor's name
	Meters     []string    `json:"meters"`
	Points     int         `json:"points"`
	Parameters []Parameter `json:"parameters"`
	Critical   []Critical  `json:"critical"`
	// Miss is the root mean square by which the model misses a point, relative, and
	// Misfit the same in the points' own errors, about 1 if the model is right.
	Miss   float64  `json:"miss"`
	Misfit float64  `json:"misfit"`
	Notes  []string `json:"notes"`

	platforms []energy.Platform
}

// reading is a fit in progress.
type reading struct {
	m      *Machine
	f      *fit
	obs    []Observation
	out    *Result
	steady map[Param]bool // clusters and packages that never slept
	speed  []map[units.Frequency]measure
	most   float64 // the most that the machine drew
}

type measure struct{ value, err float64 }

// Fit makes a result of observations.
func (m *Machine) Fit(obs []Observation) *Result {
	r := &reading{m: m, obs: obs, steady: map[Param]bool{}, speed: make([]map[units.Frequency]measure, len(m.Kinds)),
		out: &Result{Machine: m.Model, Meters: m.Meter.Names, Points: len(obs)}}
	r.solve()
	r.out.Miss, r.out.Misfit = r.f.miss, r.f.misfit
	r.power(NameAsleep, nil, 0, "", combination{{Role: Asleep}: 1})
	r.unknown(NameBase, nil, "", "the meter shows it only together with sleeping cores")
	for k := range m.Kinds {
		r.kind(k)
	}
	r.groups()
	stray := 0.0
	for _, o := range obs {
		stray = math.Max(stray, o.Stray)
	}
	if stray > 0.05 {
		r.out.Notes = append(r.out.Notes, fmt.Sprintf("the machine was not quiet: cores without a worker were busy for up to %.0f %% of a point; it was counted as computing", 100*stray))
	}
	if r.f.miss > 0.02 {
		r.out.Notes = append(r.out.Notes, fmt.Sprintf("the model misses the points by %.1f %%, so this machine is not quite what it assumes", 100*r.f.miss))
	}
	return r.out
}

// settled reports whether measuring everything again would tell nothing more: each number
// is known, cannot be told, or is lost in the scatter.
func (r *Result) settled() bool {
	return !slices.ContainsFunc(r.Parameters, func(p Parameter) bool {
		return p.Value != nil && !p.Known && *p.Error < math.Abs(*p.Value)/4
	})
}

// modelError is the relative error that the model itself is granted at each point.
const modelError = 1e-3

func (r *reading) solve() {
	rows := make([][]Term, len(r.obs))
	y, sigma := make([]float64, len(r.obs)), make([]float64, len(r.obs))
	for i, o := range r.obs {
		rows[i], y[i] = o.Terms, o.Power
		r.most = math.Max(r.most, o.Power)
		sigma[i] = math.Max(math.Hypot(o.Error, modelError*o.Power), 1e-3)
	}
	params := excited(rows)
	params = slices.DeleteFunc(params, func(p Param) bool {
		switch p.Role {
		case Cluster, Package:
			// What is always up cannot be told from the rest of the machine.
			r.steady[p] = !slices.ContainsFunc(rows, func(row []Term) bool { return amount(row, p) < 0.98 })
			return r.steady[p]
		case Static:
			// Where there is no deeper state, being awake at the slowest clock is
			// what everything is told against.
			k := r.m.Kinds[p.Kind]
			return (k.Deepest() < 0 || k.Deepest() == k.Gated) && p.Clock == k.Steps[0]
		}
		return false
	})
	r.f = robust(rows, y, sigma, params)
}

func amount(row []Term, p Param) float64 {
	for _, t := range row {
		if t.Param == p {
			return t.X
		}
	}
	return 0
}

// add appends a parameter, and judges it.
func (r *reading) add(p Parameter, value, err float64) {
	p.Value, p.Error = &value, &err
	p.Known = standard*err <= within*math.Abs(value)
	if !p.Known {
		p.Why = fmt.Sprintf("three standard errors are %.2g %% of it", 100*standard*err/math.Abs(value))
		if standard*err >= math.Abs(value) {
			p.Why = "it is too small for what the points scatter"
		}
	}
	r.out.Parameters = append(r.out.Parameters, p)
}

func (r *reading) unknown(name string, cpus *cpuset.Set, state, why string) {
	p := Parameter{Name: name, CPUs: cpus, Unit: "uW", Why: why}
	if state != "" {
		p.State = &state
	}
	r.out.Parameters = append(r.out.Parameters, p)
}

// power reports a combination of powers.
func (r *reading) power(name string, cpus *cpuset.Set, clock units.Frequency, state string, l combination) (value, err float64, ok bool) {
	p := Parameter{Name: name, CPUs: cpus, Unit: "uW"}
	if clock != 0 {
		p.Clock = &clock
	}
	if state != "" {
		p.State = &state
	}
	value, err, blame := r.f.estimate(l)
	switch {
	case blame != nil:
		p.Why = r.because(l, blame)
	case err > r.most: // in exact arithmetic the points differ in it, in effect they do not
		p.Why = r.because(l, []Param{})
	default:
		r.add(p, value, err)
		return value, err, true
	}
	r.out.Parameters = append(r.out.Parameters, p)
	return 0, 0, false
}

// because says why a combination cannot be told.
func (r *reading) because(l combination, blame []Param) string {
	for p := range l {
		if _, there := r.f.at[p]; there {
			continue
		}
		switch {
		case r.steady[p]:
			return "it was never asleep, so it is in the power of everything asleep"
		case p.Role == Cluster && r.m.clusterCores(p.Group) < 2:
			return "the cluster has one core: it is in that core's power"
		case p.Kind < len(r.m.Kinds) && r.m.Kinds[p.Kind].Fixed != "" && (p.Role == Idle || p.Role == Kept || p.Role == Static):
			return r.m.Kinds[p.Kind].Fixed
		}
		return "no point had it"
	}
	var names []string
	for _, b := range blame {
		if name := b.what(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for p := range l {
		switch why := r.m.Kinds[p.Kind].Fixed; {
		case why == "":
		case p.Role == Static || p.Role == Dynamic:
			return why + ", so no core is awake without work"
		case p.Role == Idle || p.Role == Kept:
			return why
		}
	}
	if len(names) == 0 {
		return "the points hardly differ in it alone"
	}
	return "no two points differ in it alone: it goes with " + strings.Join(names, ", ")
}

// what names a parameter's role for people.
func (p Param) what() string {
	switch p.Role {
	case Asleep:
		return NameAsleep
	case Static:
		return "a core's static power"
	case Dynamic:
		return "a core's dynamic power"
	case Memory:
		return "the power of waiting for memory"
	case Idle:
		return "the power of a core in a state"
	case Cluster:
		return "the power of a cluster"
	case Package:
		return "the power of a package"
	default:
		return "what a state keeps up"
	}
}

func (m *Machine) clusterCores(g int) int {
	n := 0
	for _, c := range m.Cores {
		if c.Cluster == g && c.Kind >= 0 {
			n++
		}
	}
	return n
}

// static is the combination for a core awake at a clock. Where that is what everything is
// told against it is nothing.
func (r *reading) static(k int, f units.Frequency) combination {
	kind := r.m.Kinds[k]
	if (kind.Deepest() < 0 || kind.Deepest() == kind.Gated) && f == kind.Steps[0] {
		return combination{}
	}
	return combination{{Role: Static, Kind: k, Clock: f}: 1}
}

func plus(l combination, p Param) combination {
	out := combination{p: 1}
	for q, w := range l {
		out[q] += w
	}
	return out
}

// kind reports what is known of a kind of core, and makes its platform.
func (r *reading) kind(at int) {
	k := r.m.Kinds[at]
	cpus := &k.CPUs
	reference := "its slowest clock, awake"
	if d := k.Deepest(); d >= 0 {
		reference = k.States[d].Name
	}
	r.unknown(NameDeepest, cpus, reference, "the meter shows it only together with the rest of the machine; what follows is above it")
	r.speeds(at)
	clocks := r.clocks(at)
	p := energy.Platform{Name: cmp.Or(r.m.Model, "machine") + ", " + k.Name(), Awake: energy.AwakeGated}
	split := true
	var busy []combination
	for _, f := range clocks {
		s := r.static(at, f)
		d := Param{Role: Dynamic, Kind: at, Clock: f}
		b := plus(s, d)
		active, _, ok := r.power(NameBusy, cpus, f, "", b)
		if !ok {
			continue
		}
		o := cpufreq.OPP{Frequency: f, Speed: float64(f) / float64(clocks[len(clocks)-1]), Dynamic: units.Power(active), Measured: true}
		static, ok1 := 0.0, len(s) == 0
		if len(s) > 0 {
			static, _, ok1 = r.power(NameStatic, cpus, f, "", s)
		}
		dynamic, _, ok2 := r.power(NameDynamic, cpus, f, "", combination{d: 1})
		if ok1 && ok2 {
			o.Static, o.Dynamic, o.Measured = units.Power(math.Max(0, static)), units.Power(dynamic), false
		} else {
			split = false
		}
		if v, ok := r.speed[at][f]; ok {
			o.Speed = v.value
		}
		p.Curve.OPPs = append(p.Curve.OPPs, o)
		busy = append(busy, b)
	}
	if !split { // one table says one thing
		p.Awake = energy.AwakeSpin
		for i := range p.Curve.OPPs {
			o := &p.Curve.OPPs[i]
			o.Dynamic, o.Static, o.Measured = o.Active(), 0, true
		}
	}
	stall := r.memory(at, clocks)
	r.idle(at, &p)
	if len(p.Curve.OPPs) == 0 {
		r.out.Notes = append(r.out.Notes, fmt.Sprintf("%s: nothing to save, for the power of no clock could be told", k.Name()))
		return
	}
	slower := 0.0 // a faster clock is no slower: the scatter must not say so
	for i := range p.Curve.OPPs {
		slower = math.Max(slower, p.Curve.OPPs[i].Speed)
		p.Curve.OPPs[i].Speed = slower
	}
	for i := range p.Curve.OPPs {
		p.Curve.OPPs[i].Speed /= slower
	}
	p.Workload = energy.Workload{Work: []units.Seconds{30e-3}, Window: 100e-3, CPUBound: 1, Stall: stall, CanSleep: true}
	shared := r.cluster(at, &p)
	p.MeasuredOn = &energy.Machine{Model: r.m.Model, CPUs: k.CPUs}
	r.out.platforms = append(r.out.platforms, p)
	for i := range busy {
		for param, w := range shared {
			busy[i][param] = w
		}
	}
	r.critical(at, p, busy)
}

// clocks are those of a kind at which a core was busy.
func (r *reading) clocks(at int) []units.Frequency {
	var out []units.Frequency
	for _, o := range r.obs {
		if o.Kind == at && o.Workers > 0 && !o.Memory {
			out = append(out, o.Clock)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// rates are the work by second of a lone worker of a kind, by clock.
func (r *reading) rates(at int, memory bool) map[units.Frequency]measure {
	seen := map[units.Frequency][]measure{}
	for _, o := range r.obs {
		if o.Kind == at && o.Workers == 1 && o.Memory == memory && o.Rate > 0 {
			seen[o.Clock] = append(seen[o.Clock], measure{o.Rate, math.Max(o.RateError, modelError*o.Rate)})
		}
	}
	out := map[units.Frequency]measure{}
	for f, of := range seen {
		out[f] = undisturbed(of)
	}
	return out
}

// undisturbed is the rate of several points that are one but for what disturbed them. That
// only slows work (a neighbour on the core's other thread, a host that is busy): it is the
// mean of the fastest and of those that agree with it. If none does, nobody knows
// whether the fastest was disturbed too, and its error is how far off the next is.
func undisturbed(points []measure) measure {
	points = slices.SortedFunc(slices.Values(points), func(a, b measure) int { return cmp.Compare(b.value, a.value) })
	m := points[0]
	for i, p := range points[1:] {
		if p.slower(m) {
			if i == 0 {
				m.err = math.Hypot(m.err, m.value-p.value)
			}
			break
		}
		w, v := 1/(m.err*m.err), 1/(p.err*p.err)
		m = measure{(w*m.value + v*p.value) / (w + v), math.Sqrt(1 / (w + v))}
	}
	return m
}

// slower reports whether a rate is below another by more than their scatter.
func (m measure) slower(than measure) bool {
	return than.value-m.value > math.Max(3*math.Hypot(m.err, than.err), 0.01*than.value)
}

// speeds reports how fast each clock computes, against the fastest.
func (r *reading) speeds(at int) {
	r.speed[at] = map[units.Frequency]measure{}
	rates := r.rates(at, false)
	clocks := r.clocks(at)
	if len(clocks) == 0 || rates[clocks[len(clocks)-1]].value == 0 {
		return
	}
	cpus := &r.m.Kinds[at].CPUs
	top := rates[clocks[len(clocks)-1]]
	fastest := measure{} // of the slower clocks
	for i, f := range clocks {
		v, ok := rates[f]
		if !ok {
			continue
		}
		// A faster clock is not slower: something else was.
		if v.slower(fastest) {
			v.err = math.Hypot(v.err, fastest.value-v.value)
		} else {
			fastest = v
		}
		s := measure{v.value / top.value, 0}
		if i < len(clocks)-1 {
			s.err = s.value * math.Hypot(v.err/v.value, top.err/top.value)
		}
		r.speed[at][f] = s
		r.add(Parameter{Name: NameSpeed, CPUs: cpus, Clock: &f}, s.value, s.err)
	}
}

// memory reports the power of waiting for memory, how much of the memory worker's time the
// clock bounds, and how much of the dynamic power a stall leaves; it returns the last, 1
// if it is not known.
//
// The time of a step is alpha/speed + 1 - alpha, and of the dynamic power
// b + stall (1 - b) is left, b = (alpha/speed) / (alpha/speed + 1 - alpha): cpufreq.Curve.
func (r *reading) memory(at int, clocks []units.Frequency) float64 {
	cpus := &r.m.Kinds[at].CPUs
	for _, f := range clocks {
		if _, there := r.f.at[Param{Role: Memory, Kind: at, Clock: f}]; there {
			r.power(NameWaiting, cpus, f, "", plus(r.static(at, f), Param{Role: Memory, Kind: at, Clock: f}))
		}
	}
	cannot := func(name, why string) {
		r.out.Parameters = append(r.out.Parameters, Parameter{Name: name, CPUs: cpus, Why: why})
	}
	rates := r.rates(at, true)
	var x, y, sigma []float64
	for _, f := range clocks {
		top, s, v := rates[clocks[len(clocks)-1]], r.speed[at][f], rates[f]
		if top.value == 0 || s.value == 0 || v.value == 0 {
			continue
		}
		x = append(x, 1/s.value)
		y = append(y, top.value/v.value)
		sigma = append(sigma, y[len(y)-1]*math.Hypot(v.err/v.value, s.err/s.value))
	}
	a, b, cov, err := line(x, y, sigma)
	if err != nil || a+b <= 0 {
		why := "there is one clock only"
		if len(clocks) > 1 {
			why = "the memory worker was not seen at two speeds"
		}
		cannot(NameBound, why)
		cannot(NameStall, why)
		return 1
	}
	alpha := b / (a + b)
	sum2 := (a + b) * (a + b)
	da, db := -b/sum2, a/sum2
	alphaErr := math.Sqrt(math.Max(0, da*da*cov[0][0]+2*da*db*cov[0][1]+db*db*cov[1][1]))
	alpha = math.Min(1, math.Max(0, alpha))
	r.add(Parameter{Name: NameBound, CPUs: cpus}, alpha, alphaErr)

	stall, stallErr := 1.0, math.Inf(1)
	for range 3 { // the weights follow the value
		var sxx, sxy, syy float64
		n := 0
		for _, f := range clocks {
			s := r.speed[at][f].value
			d, m := Param{Role: Dynamic, Kind: at, Clock: f}, Param{Role: Memory, Kind: at, Clock: f}
			dynamic, _, blame := r.f.estimate(combination{d: 1})
			waiting, _, blame2 := r.f.estimate(combination{m: 1})
			if blame != nil || blame2 != nil || s == 0 {
				continue
			}
			busy := alpha / s / (alpha/s + 1 - alpha)
			_, e, _ := r.f.estimate(combination{m: 1, d: -(busy + stall*(1-busy))})
			w := 1 / math.Max(e*e, 1e-6)
			px, py := dynamic*(1-busy), waiting-dynamic*busy
			sxx, sxy, syy = sxx+w*px*px, sxy+w*px*py, syy+w*py*py
			n++
		}
		if n == 0 || sxx == 0 {
			break
		}
		stall = sxy / sxx
		chi := math.Max(0, syy-stall*sxy)
		stallErr = math.Sqrt(math.Max(1, chi/math.Max(1, float64(n-1))) / sxx)
	}
	switch {
	case math.IsInf(stallErr, 1):
		cannot(NameStall, "static and dynamic power could not be told apart")
		return 1
	case alpha > 0.9:
		cannot(NameStall, "the memory worker hardly stalled")
		return 1
	}
	r.add(Parameter{Name: NameStall, CPUs: cpus}, stall, stallErr)
	return math.Min(1, math.Max(0, stall))
}

// idle reports the states of a kind and puts them into its platform.
func (r *reading) idle(at int, p *energy.Platform) {
	k := r.m.Kinds[at]
	for s, state := range k.States {
		if state.Poll {
			continue
		}
		model := cstates.Model{Name: state.Name, Exit: state.Latency, Residency: state.Residency}
		l := combination{{Role: Idle, Kind: at, State: s}: 1}
		if s == k.Gated {
			l = r.static(at, k.Steps[0])
		}
		if s != k.Deepest() && len(l) > 0 {
			var value float64
			var ok bool
			if s == k.Gated { // reported as static power
				var blame []Param
				value, _, blame = r.f.estimate(l)
				ok = blame == nil
			} else {
				value, _, ok = r.power(NameIdle, &k.CPUs, 0, state.Name, l)
			}
			if !ok {
				continue
			}
			model.Power = units.Power(math.Max(0, value))
		}
		// Transitions are not measured: modelled such that the kernel's residency is
		// the break-even against what is shallower.
		shallower := units.Power(0)
		if len(p.Curve.OPPs) > 0 {
			shallower = p.Curve.OPPs[0].Static
		}
		cost := shallower.Over(model.Residency)
		if n := len(p.Idle); n > 0 {
			cost = p.Idle[n-1].Cost(model.Residency)
		}
		model.Transition = max(0, cost-model.Cost(model.Residency))
		p.Idle = append(p.Idle, model)
		kept := Param{Role: Kept, Kind: at, State: s}
		if _, there := r.f.at[kept]; there {
			r.power(NameKept, &k.CPUs, 0, state.Name, combination{kept: 1})
		}
	}
}

// cluster puts the mean of a kind's clusters into its platform, if it is told from none,
// and returns what it is of.
func (r *reading) cluster(at int, p *energy.Platform) combination {
	l, cores, n := combination{}, 0, 0
	for _, g := range r.m.members(at) {
		param := Param{Role: Cluster, Group: r.m.Cores[g[0]].Cluster}
		if _, _, blame := r.f.estimate(combination{param: 1}); blame == nil {
			l[param] = 1
			n++
			cores = max(cores, r.m.clusterCores(param.Group))
		}
	}
	for param := range l {
		l[param] = 1 / float64(n)
	}
	if value, err, _ := r.f.estimate(l); n > 0 && value > 2*err {
		p.Cluster = &energy.Cluster{Cores: cores, Power: units.Power(value)}
		return l
	}
	return nil
}

// groups reports clusters and packages.
func (r *reading) groups() {
	for g := range r.m.Clusters {
		r.power(NameCluster, &r.m.Clusters[g], 0, "", combination{{Role: Cluster, Group: g}: 1})
	}
	for g := range r.m.Packages {
		p := Param{Role: Package, Group: g}
		if _, there := r.f.at[p]; there || r.steady[p] {
			r.power(NamePackage, &r.m.Packages[g], 0, "", combination{p: 1})
		}
	}
}

// critical reports the critical clock of a kind, and which others it cannot be told from.
// Busy is what a lone core costs at each clock, with what it keeps up around it.
func (r *reading) critical(at int, p energy.Platform, busy []combination) {
	best := p.Choose().Critical
	c := Critical{CPUs: r.m.Kinds[at].CPUs, Clock: p.Curve.OPPs[best].Frequency}
	shared := units.Power(0)
	if p.Cluster != nil {
		shared = p.Cluster.Power
	}
	power := func(i int) float64 { return float64(p.Curve.OPPs[i].Active() + shared) }
	timeErr := func(i int) float64 {
		s := r.speed[at][p.Curve.OPPs[i].Frequency]
		if s.value == 0 {
			return 0
		}
		return s.err / s.value
	}
	tau := func(i int) float64 { return p.Curve.Tau(i, 1) }
	for i, o := range p.Curve.OPPs {
		if i == best {
			continue
		}
		more := power(i)*tau(i) - power(best)*tau(best)
		v := tau(i)*tau(i)*r.f.covariance(busy[i], busy[i]) + tau(best)*tau(best)*r.f.covariance(busy[best], busy[best]) -
			2*tau(i)*tau(best)*r.f.covariance(busy[i], busy[best])
		v += math.Pow(power(i)*tau(i)*timeErr(i), 2) + math.Pow(power(best)*tau(best)*timeErr(best), 2)
		if more < 2*math.Sqrt(math.Max(0, v)) {
			c.Also = append(c.Also, o.Frequency)
		}
	}
	r.out.Critical = append(r.out.Critical, c)
}

// Platforms are the kinds as platforms, for the daemon and `powerd critical`. At is when
// they were measured.
func (r *Result) Platforms(at time.Time) []energy.Platform {
	out := slices.Clone(r.platforms)
	for i := range out {
		out[i].Source = fmt.Sprintf("Measured by powerd calibrate on %s with %s, %d points, missed by %.2g %%. Powers of cores are above that of their deepest idle state, which the meter cannot tell from the machine's. Modelled: transition energies, such that the kernel's residency is the break-even.",
			at.UTC().Format("2006-01-02"), strings.Join(r.Meters, " + "), r.Points, 100*r.Miss)
	}
	return out
}
