//go:build !powerd_oci

package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/limit"
	"github.com/powerd/powerd/internal/units"
)

// jsonLimit is what powerd limit prints as JSON.
type jsonLimit struct {
	Jobs   int    `json:"jobs"`
	Cores  int    `json:"cores"`
	Power  string `json:"power"`
	Levels pairs  `json:"yds_levels"` // [speed, seconds], the fastest first
	// Speeds of the jobs, in their order.
	Speeds []float64 `json:"yds_speeds"`
	// Energy in the power's unit times seconds; null where a speed cannot be reached.
	Energy struct {
		YDS *float64 `json:"yds"`
		AVR *float64 `json:"avr"`
		OA  *float64 `json:"oa"`
		// DiscreteLP is the least with the speeds that there are, on all cores; null
		// if they do not suffice, or if there is no list of speeds.
		DiscreteLP *float64 `json:"discrete_lp"`
	} `json:"energy"`
}

type pairs [][2]float64

func newLimitCmd(u *ui) *cobra.Command {
	var power, speeds, platform string
	var cores int
	cmd := &cobra.Command{
		Use:   "limit JOBS.csv",
		Short: "Compute the least energy that a set of jobs can be done with",
		Long: `limit reads jobs, a line each of release,deadline,work (seconds, and seconds at speed 1),
and computes what they cost at least, knowing all of them beforehand: YDS, optimal for
every convex power; and what two ways cost that do not know the future, AVR and OA.

The power is a formula, or a list of speeds with what they draw, of which the one at
speed 0 is idling, or a platform's. With a list, speeds between two of it are mixed, and
the discrete LP is the least on that many cores, each with a clock of its own.`,
		Example: "  powerd limit jobs.csv --power s^3\n  powerd limit jobs.csv --speeds '0:0.02,0.5:0.2,1:1' --cores 2\n  powerd limit jobs.csv --platform rk3399-a72 -o json",
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
	fl.IntVar(&cores, "cores", 1, "cores for the discrete LP")
	cmd.MarkFlagsMutuallyExclusive("power", "speeds", "platform")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cores < 1 || cores > 4096 {
			return usage(fmt.Errorf("cannot use %d cores", cores), "want 1 to 4096")
		}
		var p limit.Power
		name := "s^3"
		switch {
		case speeds != "":
			h, err := parseSpeeds(speeds)
			if err != nil {
				return usage(err, "want SPEED:POWER,..., such as 0:0.02,0.5:0.2,1:1")
			}
			p, name = h, speeds
		case platform != "":
			f, err := configs.LoadPlatform(platform)
			if err != nil {
				return err
			}
			if f.Cluster != nil && cores > 1 {
				return usage(fmt.Errorf("cannot use %d cores: those of platform %s share a clock", cores, f.Name), "the discrete LP is of cores with clocks of their own: leave --cores out")
			}
			h, err := platformHull(f)
			if err != nil {
				return fmt.Errorf("cannot price platform %s: %v", platform, err)
			}
			p, name = h, f.Name+", W"
		default:
			if power != "" {
				name = power
			}
			f, err := parsePower(name)
			if err != nil {
				return usage(err, "want s^A or C*s^A with an exponent above 1, such as s^3")
			}
			p = f
		}
		jobs, err := readJobs(cmd, args[0])
		if err != nil {
			return err
		}
		r := jsonLimit{Jobs: len(jobs), Cores: cores, Power: name, Levels: pairs{}}
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
			if e, ok := limit.Energy(p, list, total); ok {
				return &e
			}
			return nil
		}
		r.Energy.YDS, r.Energy.AVR, r.Energy.OA = price(yds, total), price(avr, total), price(oa, total)
		if _, discrete := p.(limit.Hull); discrete {
			_, profile, err := limit.Cores(jobs, cores)
			if err != nil {
				return fmt.Errorf("cannot compute the discrete LP: %v", err)
			}
			r.Energy.DiscreteLP = price(profile, float64(cores)*total)
		}
		if output.value == "json" {
			return u.json(r)
		}
		limitTable(u, r)
		return nil
	}
	return cmd
}

func readJobs(cmd *cobra.Command, name string) ([]limit.Job, error) {
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read jobs: %v", err)
		}
		defer f.Close()
		in = f
	}
	jobs, err := limit.Read(in)
	if err != nil {
		return nil, fmt.Errorf("cannot read jobs from %s: %v", name, err)
	}
	return jobs, nil
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

// platformHull prices one core in watts, and the power around it where it is the only one
// of a cluster that works; idle, it is in its deepest state.
func platformHull(p energy.Platform) (limit.Hull, error) {
	var awake units.Power
	if p.Cluster != nil {
		awake = p.Cluster.Power
	}
	// The deepest of a cluster is the whole cluster's already.
	points := []limit.Point{{Power: float64(p.Choose().Deepest) / float64(units.Watt)}}
	for _, o := range p.Curve.OPPs {
		points = append(points, limit.Point{Speed: o.Speed, Power: float64(o.Active()+awake) / float64(units.Watt)})
	}
	return limit.NewHull(points)
}

// maxLevels bounds the levels in a table.
const maxLevels = 12

func limitTable(u *ui, r jsonLimit) {
	show := func(e *float64, than *float64) []string {
		switch {
		case e == nil:
			return []string{"-", "the speeds do not suffice"}
		case than == nil || *than == 0:
			return []string{fmt.Sprintf("%.6g", *e)}
		}
		return []string{fmt.Sprintf("%.6g", *e), fmt.Sprintf("%.3f x", *e / *than)}
	}
	jobs := section{title: "jobs"}
	jobs.row(fmt.Sprint(r.Jobs), "power "+r.Power)
	levels := section{title: "YDS"}
	for i, l := range r.Levels {
		if i == maxLevels {
			levels.row(fmt.Sprintf("and %d slower levels: -o json has them", len(r.Levels)-i))
			break
		}
		levels.row(fmt.Sprintf("speed %.6g", l[0]), fmt.Sprintf("%.6g s", l[1]))
	}
	energy := section{title: "energy"}
	energy.row(append([]string{"YDS"}, show(r.Energy.YDS, nil)...)...)
	energy.row(append([]string{"OA"}, show(r.Energy.OA, r.Energy.YDS)...)...)
	energy.row(append([]string{"AVR"}, show(r.Energy.AVR, r.Energy.YDS)...)...)
	if r.Energy.DiscreteLP != nil || strings.ContainsAny(r.Power, ":W") {
		name := "discrete LP"
		if r.Cores > 1 {
			name += fmt.Sprintf(", %d cores", r.Cores)
		}
		energy.row(append([]string{name}, show(r.Energy.DiscreteLP, nil)...)...)
	}
	u.sections([]section{jobs, levels, energy})
}
