//go:build !powerd_oci

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/limit"
)

// jsonLimit is what powerd limit prints as JSON. Energy is in the power's unit times
// seconds, and null where a speed cannot be reached.
type jsonLimit struct {
	Jobs   int    `json:"jobs"`
	Cores  int    `json:"cores"`
	Power  string `json:"power"`
	Levels pairs  `json:"yds_levels"` // [speed, seconds], the fastest first
	// Speeds of the jobs, in their order.
	Speeds []float64 `json:"yds_speeds"`
	Energy struct {
		YDS *float64 `json:"yds"`
		AVR *float64 `json:"avr"`
		OA  *float64 `json:"oa"`
		// DiscreteLP is the least with the speeds that there are, on all cores. There is
		// none if the power is a formula.
		DiscreteLP *float64 `json:"discrete_lp"`
		// Relaxed is no more than that: the bound that looks only at how much is done.
		Relaxed *float64 `json:"relaxed"`
	} `json:"energy"`
}

// jsonTrace is the same of a trace.
type jsonTrace struct {
	Intervals int     `json:"intervals"`
	Seconds   float64 `json:"seconds"`
	Cores     int     `json:"cores"`
	Power     string  `json:"power"`
	Peak      float64 `json:"peak_speed"`
	Energy    struct {
		Fluid *float64 `json:"fluid"`
	} `json:"energy"`
}

type pairs [][2]float64

// A priced machine is cores for the limit.
type priced struct {
	name string
	core limit.Power // of one core, were it alone
	// These are of all cores, and there is none if the power is a formula.
	hull    *limit.Hull
	cluster *limit.Cluster // if they share a clock
}

func newLimitCmd(u *ui) *cobra.Command {
	var power, speeds, platform string
	var cores int
	var trace, relaxed bool
	cmd := &cobra.Command{
		Use:   "limit JOBS.csv",
		Short: "Compute the least energy that a set of jobs can be done with",
		Long: `limit reads jobs, a line each of release,deadline,work (seconds, and seconds at speed 1),
and computes what they cost at least, knowing all of them beforehand: YDS, optimal for
every convex power; and what two ways cost that do not know the future, AVR and OA.

The power is a formula, or a list of speeds with what they draw, of which the one at
speed 0 is idling, or a platform's. With a list, speeds between two of it are mixed, and
the discrete LP is the least on that many cores. Each has a clock of its own, unless the
platform is a cluster: then they share its clock and sleep together, and those of its
cores that are left over idle while it is awake.

relaxed is a bound below that, which looks only at how much work is released and due
until each moment. With --relaxed it is all that is computed, for many jobs.

With --trace the file has lines of time_s,container,utilisation, in percent of a core at
speed 1. Each time lasts until the next one in the file, and the last as long as the one
before; the containers that have a line then are summed, and their work is done in that
interval, at the least that the cores can draw for it on average.`,
		Example: "  powerd limit jobs.csv --power s^3\n  powerd limit jobs.csv --speeds '0:0.02,0.5:0.2,1:1' --cores 2\n  powerd limit jobs.csv --platform rk3399-a72 -o json\n  powerd limit usage.csv --trace --platform cluster.yaml --cores 4",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(fmt.Errorf("cannot read the command line: limit takes one file of jobs, got %d", len(args)), "- is standard input")
			}
			return nil
		},
	}
	output := outputFlag(cmd, "table", "json")
	fl := cmd.Flags()
	fl.StringVar(&power, "power", "", "power as a formula of the speed: s^3, 2*s^1.5 (default s^3)")
	fl.StringVar(&speeds, "speeds", "", "speeds with their power: 0:0.02,0.5:0.2,1:1")
	fl.StringVar(&platform, "platform", "", "a platform file, or the name of one that comes with powerd")
	fl.IntVar(&cores, "cores", 1, "cores for the discrete LP, relaxed and a trace")
	fl.BoolVar(&relaxed, "relaxed", false, "compute only the relaxed bound")
	fl.BoolVar(&trace, "trace", false, "the file is a trace of utilisation")
	cmd.MarkFlagsMutuallyExclusive("power", "speeds", "platform")
	cmd.MarkFlagsMutuallyExclusive("relaxed", "trace")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cores < 1 || cores > 4096 {
			return usage(fmt.Errorf("cannot use %d cores", cores), "want 1 to 4096")
		}
		m, err := priceMachine(power, speeds, platform, cores)
		if err != nil {
			return err
		}
		if m.hull == nil && (relaxed || trace) {
			return usage(fmt.Errorf("cannot use power %q: it has no highest speed", m.name), "want --speeds or --platform")
		}
		if trace {
			levels, err := readFile(cmd, args[0], "a trace", limit.ReadTrace)
			if err != nil {
				return err
			}
			r := traceLimit(levels, m, cores)
			if output.value == "json" {
				return u.json(r)
			}
			traceTable(u, r)
			return nil
		}
		jobs, err := readFile(cmd, args[0], "jobs", limit.Read)
		if err != nil {
			return err
		}
		r := jsonLimit{Jobs: len(jobs), Cores: cores, Power: m.name, Levels: pairs{}, Speeds: []float64{}}
		if !relaxed {
			if err := r.schedules(jobs, m); err != nil {
				return err
			}
		}
		if m.hull != nil {
			if err := r.relax(jobs, *m.hull); err != nil {
				return err
			}
		}
		if output.value == "json" {
			return u.json(r)
		}
		limitTable(u, r, m.hull != nil, relaxed)
		return nil
	}
	return cmd
}

// priceMachine makes a machine of flags, of which at most one is given.
func priceMachine(power, speeds, platform string, cores int) (priced, error) {
	switch {
	case speeds != "":
		h, err := parseSpeeds(speeds)
		if err != nil {
			return priced{}, usage(err, "want SPEED:POWER,..., such as 0:0.02,0.5:0.2,1:1")
		}
		all := h.Times(cores)
		return priced{name: speeds, core: h, hull: &all}, nil
	case platform != "":
		f, err := configs.LoadPlatform(platform)
		if err != nil {
			return priced{}, err
		}
		m := priced{name: f.Name + ", W"}
		var one, all limit.Hull
		if f.Cluster == nil {
			one, err = platformHull(f)
			all = one.Times(cores)
		} else {
			if cores > f.Cluster.Cores {
				return priced{}, usage(fmt.Errorf("cannot use %d cores: the cluster of platform %s has %d", cores, f.Name, f.Cluster.Cores), "leave --cores out, or give fewer")
			}
			c := platformCluster(f, cores)
			m.cluster = &c
			if one, err = limit.MachineHull([]limit.Cluster{platformCluster(f, 1)}); err == nil {
				all, err = limit.MachineHull([]limit.Cluster{c})
			}
		}
		if err != nil {
			return priced{}, fmt.Errorf("cannot price platform %s: %v", platform, err)
		}
		m.core, m.hull = one, &all
		return m, nil
	case power == "":
		power = "s^3"
	}
	f, err := parsePower(power)
	if err != nil {
		return priced{}, usage(err, "want s^A or C*s^A with an exponent above 1, such as s^3")
	}
	return priced{name: power, core: f}, nil
}

// schedules computes all that is optimal or online.
func (r *jsonLimit) schedules(jobs []limit.Job, m priced) error {
	each, yds, err := limit.YDS(jobs)
	if err != nil {
		return err
	}
	avr, err := limit.AVR(jobs)
	if err != nil {
		return err
	}
	oa, err := limit.OA(jobs)
	if err != nil {
		return err
	}
	r.Speeds = each
	for _, l := range yds {
		r.Levels = append(r.Levels, [2]float64{l.Speed, l.Seconds})
	}
	total := limit.Horizon(jobs)
	price := func(list []limit.Level, total float64) *float64 {
		if e, ok := limit.Energy(m.core, list, total); ok {
			return &e
		}
		return nil
	}
	r.Energy.YDS, r.Energy.AVR, r.Energy.OA = price(yds, total), price(avr, total), price(oa, total)
	switch {
	case m.hull == nil:
	case m.cluster != nil && r.Cores > 1: // one alone is its hull
		e, ok, err := limit.Discrete(jobs, *m.cluster)
		if err != nil {
			return fmt.Errorf("cannot compute the discrete LP: %v; --relaxed does without", err)
		}
		if ok {
			r.Energy.DiscreteLP = &e
		}
	default:
		_, profile, err := limit.Cores(jobs, r.Cores)
		if err != nil {
			return fmt.Errorf("cannot compute the discrete LP: %v; --relaxed does without", err)
		}
		r.Energy.DiscreteLP = price(profile, float64(r.Cores)*total)
	}
	return nil
}

// relax computes the bound from the first release to the last deadline.
func (r *jsonLimit) relax(jobs []limit.Job, h limit.Hull) error {
	first := slices.MinFunc(jobs, func(a, b limit.Job) int { return cmp.Compare(a.Release, b.Release) }).Release
	moved := slices.Clone(jobs)
	for i := range moved {
		moved[i].Release -= first
		moved[i].Deadline -= first
	}
	e, ok, err := limit.Relaxed(moved, h, limit.Horizon(jobs))
	if err != nil {
		return fmt.Errorf("cannot compute the relaxed bound: %v", err)
	}
	if ok {
		r.Energy.Relaxed = &e
	}
	return nil
}

func traceLimit(levels []limit.Level, m priced, cores int) jsonTrace {
	r := jsonTrace{Intervals: len(levels), Cores: cores, Power: m.name}
	for _, l := range levels {
		r.Seconds += l.Seconds
		r.Peak = max(r.Peak, l.Speed)
	}
	if e, ok := limit.Fluid(levels, *m.hull); ok {
		r.Energy.Fluid = &e
	}
	return r
}

// readFile reads a file, or standard input, which holds what.
func readFile[T any](cmd *cobra.Command, name, what string, read func(io.Reader) (T, error)) (T, error) {
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return *new(T), fmt.Errorf("cannot read %s: %v", what, err)
		}
		defer f.Close()
		in = f
	}
	out, err := read(in)
	if err != nil {
		return *new(T), fmt.Errorf("cannot read %s from %s: %v", what, name, err)
	}
	return out, nil
}

// parsePower reads C*s^A.
func parsePower(s string) (limit.Polynomial, error) {
	p := limit.Polynomial{Scale: 1}
	text := strings.ReplaceAll(s, " ", "")
	scale, rest, scaled := strings.Cut(text, "*")
	var err error
	if scaled {
		p.Scale, err = strconv.ParseFloat(scale, 64)
		text = rest
	}
	exponent, ok := strings.CutPrefix(text, "s^")
	if ok && err == nil {
		p.Exponent, err = strconv.ParseFloat(exponent, 64)
	}
	if !ok || err != nil || !(p.Exponent > 1 && p.Exponent <= 100) || !(p.Scale > 0) || math.IsInf(p.Scale, 0) {
		return p, fmt.Errorf("cannot use power %q", s)
	}
	return p, nil
}

// parseSpeeds reads SPEED:POWER,...
func parseSpeeds(s string) (limit.Hull, error) {
	var points []limit.Point
	for part := range strings.SplitSeq(s, ",") {
		a, b, ok := strings.Cut(strings.TrimSpace(part), ":")
		speed, err := strconv.ParseFloat(strings.TrimSpace(a), 64)
		power, err2 := strconv.ParseFloat(strings.TrimSpace(b), 64)
		if err := errors.Join(err, err2); !ok || err != nil {
			return limit.Hull{}, fmt.Errorf("cannot use speeds: %q is no SPEED:POWER", part)
		}
		points = append(points, limit.Point{Speed: speed, Power: power})
	}
	h, err := limit.NewHull(points)
	if err != nil {
		return h, fmt.Errorf("cannot use speeds: %v", err)
	}
	return h, nil
}

// platformHull prices one core with a clock of its own, in watts; idle, it is in its
// deepest state.
func platformHull(p energy.Platform) (limit.Hull, error) {
	points := []limit.Point{{Power: p.Choose().Deepest.Watts()}}
	for _, o := range p.Curve.OPPs {
		points = append(points, limit.Point{Speed: o.Speed, Power: o.Active().Watts()})
	}
	return limit.NewHull(points)
}

// platformCluster prices some cores of a cluster, in watts. What all of them draw while they
// idle at an OPP is part of what is around them.
func platformCluster(p energy.Platform, cores int) limit.Cluster {
	p.Workload.CPUBound, p.Workload.Stall = 1, 1
	c := limit.Cluster{Cores: cores, Sleep: p.Choose().Deepest.Watts()}
	for i, o := range p.Curve.OPPs {
		around := p.ClusterPower(i, 0).Watts()
		c.Speed = append(c.Speed, o.Speed)
		c.Around = append(c.Around, around)
		c.Power = append(c.Power, max(0, p.ClusterPower(i, 1).Watts()-around))
	}
	return c
}

// maxLevels bounds the levels in a table.
const maxLevels = 12

// showEnergy is a cell of energy, and how many times another it is.
func showEnergy(e, than *float64) []string {
	switch {
	case e == nil:
		return []string{"-", "the speeds do not suffice"}
	case than == nil || *than == 0:
		return []string{fmt.Sprintf("%.6g", *e)}
	}
	return []string{fmt.Sprintf("%.6g", *e), fmt.Sprintf("%.3f x", *e / *than)}
}

func limitTable(u *ui, r jsonLimit, discrete, relaxed bool) {
	jobs := section{title: "jobs"}
	jobs.row(fmt.Sprint(r.Jobs), "power "+r.Power)
	energy := section{title: "energy"}
	row := func(name string, e, than *float64) {
		energy.row(append([]string{name}, showEnergy(e, than)...)...)
	}
	on := ""
	if r.Cores > 1 {
		on = fmt.Sprintf(", %d cores", r.Cores)
	}
	if relaxed {
		row("relaxed"+on, r.Energy.Relaxed, nil)
		u.sections([]section{jobs, energy})
		return
	}
	levels := section{title: "YDS"}
	for i, l := range r.Levels {
		if i == maxLevels {
			levels.row(fmt.Sprintf("and %d slower levels: -o json has them", len(r.Levels)-i))
			break
		}
		levels.row(fmt.Sprintf("speed %.6g", l[0]), fmt.Sprintf("%.6g s", l[1]))
	}
	row("YDS", r.Energy.YDS, nil)
	row("OA", r.Energy.OA, r.Energy.YDS)
	row("AVR", r.Energy.AVR, r.Energy.YDS)
	if discrete {
		row("discrete LP"+on, r.Energy.DiscreteLP, nil)
		row("relaxed"+on, r.Energy.Relaxed, r.Energy.DiscreteLP)
	}
	u.sections([]section{jobs, levels, energy})
}

func traceTable(u *ui, r jsonTrace) {
	trace, energy := section{title: "trace"}, section{title: "energy"}
	trace.row(fmt.Sprint(r.Intervals), fmt.Sprintf("%.6g s", r.Seconds), fmt.Sprintf("up to speed %.6g", r.Peak), "power "+r.Power)
	energy.row(append([]string{"fluid"}, showEnergy(r.Energy.Fluid, nil)...)...)
	u.sections([]section{trace, energy})
}
