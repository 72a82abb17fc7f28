//go:build !powerd_oci

package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/internal/bench"
	"github.com/powerd/powerd/internal/loads"
	"github.com/powerd/powerd/internal/report"
)

// jsonBench is what powerd bench prints as JSON.
type jsonBench struct {
	Version string        `json:"version"`
	Machine string        `json:"machine"`
	Span    time.Duration `json:"span_ns"`
	Rows    []benchRow    `json:"rows"`
	Summary bench.Summary `json:"summary"`
}

type benchRow struct {
	bench.Row
	Verdict bench.Verdict `json:"verdict"`
}

func newBenchCmd(u *ui) *cobra.Command {
	var machine, config, shared, load, policy, platform, page string
	var span time.Duration
	var seed uint64
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Run the same work under powerd, the kernel's governors and the limit",
		Long: `bench runs loads on machines under each policy: the same work, the same seed. It tells
what energy each took, as a multiple of the least that any schedule with foreknowledge
could (x-limit), the deadlines missed and the response times.

A machine is two clusters of a platform's cores (a file of configs/platforms/ by name, or
any such file), or one of those composed of more: epyc-32-cores, hi3660, rk3399,
xeon-2-sockets. A load is one by name, or a file: jobs (CSV: release,deadline,work), a
utilisation trace (CSV: time_s,container,utilisation in percent), percentages one a line
for 300 s each, or rt-app's JSON. Policies are governors, powerd, powerd-uncounted (without
counters of cycles and instructions), oracle-static (the best single operating point,
known afterwards) and opp0, opp1, ...

--html writes a page with plots as well, which needs nothing but a browser.

On a simulated machine joules are modelled. On the host they are measured: cgroups of
processes that really compute and wait for memory, under its own governors and the daemon,
one policy after the other; it needs root and a meter, and restores all it changes.`,
		Example: "  powerd bench --platform rk3399-a72 --load web,media --shared 0,30\n  powerd bench --html bench.html\n  powerd bench -o gobench > new.txt && benchstat old.txt new.txt",
		Args:    noArgs,
	}
	output := outputFlag(cmd, "table", "markdown", "json", "gobench")
	fl := cmd.Flags()
	fl.StringVar(&machine, "machine", "sim", "where: sim, simulated machines, or host, this one, by its meter")
	fl.StringVar(&config, "config", "", "policy file of powerd (default: the one that powerd comes with)")
	fl.StringVar(&platform, "platform", "", "machines, separated by commas (default all that powerd comes with)")
	fl.StringVar(&load, "load", "", "loads, separated by commas: "+strings.Join(loads.Names(), ", ")+", or files (default all named but memory)")
	fl.StringVar(&shared, "shared", "0,10,30", "power around a cluster while it is awake, in percent of its cores' at their fastest")
	fl.StringVar(&policy, "policy", "", "policies, separated by commas (default all; on the host powerd, performance, schedutil, ondemand)")
	fl.DurationVar(&span, "for", simSpan, "time on the machine's clock")
	fl.Uint64Var(&seed, "seed", 1, "seed of what comes by chance")
	fl.StringVar(&page, "html", "", "file to write a page with plots to, too")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if machine != "sim" && machine != "host" {
			return usage(fmt.Errorf("cannot use --machine %s", machine), "want sim or host; a node in QEMU is measured by `make bench-testbed`")
		}
		if span < time.Second || span > 24*time.Hour {
			return usage(fmt.Errorf("cannot run for %v", span), "want 1s to 24h")
		}
		c, err := configs.Load(config, "")
		if err != nil {
			return err
		}
		policies := list(policy, append(append([]string{bench.Powerd}, bench.Governors...), bench.Oracle))
		if machine == "host" {
			policies = list(policy, hostPolicies)
		}
		save, drop, err := replacing(page)
		if err != nil {
			return err
		}
		defer drop()
		show, began, done := u.progress("cases"), time.Now(), 0
		names, total := list(load, loads.Table()), 0
		each := func(r bench.Row) {
			done++
			left := time.Since(began) * time.Duration(total-done) / time.Duration(done)
			show(done, total, left, r.Machine+" "+r.Load)
		}
		var cases []bench.Case
		var rows []bench.Row
		if machine == "host" {
			total = len(names)
			rows, cases, err = benchHost(cmd.Context(), u, c, config, names, policies, span, seed, each)
		} else if cases, err = benchCases(list(platform, bench.MachineNames()), names, strings.Split(shared, ","), span, seed); err == nil {
			total = len(cases)
			rows, err = bench.Compare(cmd.Context(), cases, policies, c, each)
		}
		u.endProgress()
		if err != nil {
			return err
		}
		out := jsonBench{Version: version(), Machine: machine, Span: span, Summary: bench.Summarise(rows)}
		for _, r := range rows {
			out.Rows = append(out.Rows, benchRow{r, r.Verdict()})
		}
		err = save(func(w io.Writer) error {
			return report.Write(w, report.Run{Version: out.Version, Machine: machine, Span: span, Policies: policies, Cases: cases, Rows: rows, Summary: out.Summary})
		})
		if err != nil {
			return err
		}
		switch output.value {
		case "json":
			return u.json(out)
		case "gobench":
			u.gobench(out)
		case "markdown":
			u.benchMarkdown(out, policies)
		default:
			u.bench(out, policies)
		}
		return nil
	}
	return cmd
}

// benchWarm is how long a case runs before it is counted.
const benchWarm = 3 * time.Second

// list splits a flag's value; empty is all.
func list(s string, all []string) []string {
	if s == "" {
		return all
	}
	return strings.Split(s, ",")
}

func benchCases(platforms, names, shared []string, span time.Duration, seed uint64) (out []bench.Case, err error) {
	for _, name := range platforms {
		for _, s := range shared {
			share, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(s), "%"), 64)
			if err != nil || !(share >= 0 && share <= 1000) || math.IsInf(share, 0) {
				return nil, usage(fmt.Errorf("cannot use --shared %s: %q is not a percentage", strings.Join(shared, ","), s), "want numbers such as 0,10,30")
			}
			m, err := bench.Open(name, share/100)
			if err != nil {
				return nil, err
			}
			for _, name := range names {
				l, err := openLoad(name, m.Cores(), span+benchWarm, seed)
				if err != nil {
					return nil, err
				}
				out = append(out, bench.Case{Machine: m, Load: l, Seed: seed, Span: span + benchWarm, Warm: benchWarm})
			}
		}
	}
	return out, nil
}

func openLoad(name string, cores float64, span time.Duration, seed uint64) (loads.Load, error) {
	if slices.Contains(loads.Names(), name) {
		return loads.Named(name, cores, span, seed)
	}
	f, err := os.Open(name)
	if err != nil {
		return loads.Load{}, withHint(fmt.Errorf("cannot read load: %v", err), "a load is a file, or one of "+strings.Join(loads.Names(), ", "))
	}
	defer f.Close()
	l, err := loads.Read(name, f, span-benchWarm)
	for i := range l.Containers { // every line of a file counts
		c := &l.Containers[i]
		c.From += benchWarm
		if c.Until > 0 {
			c.Until += benchWarm
		}
	}
	return l, err
}

// gobench prints rows in the format of Go's benchmarks.
//
// See golang.org/design/14313-benchmark-format.
func (u *ui) gobench(b jsonBench) {
	u.printf("goos: %s\ngoarch: %s\npkg: github.com/powerd/powerd/internal/bench\nversion: %s\nmachine: %s\nspan: %v\n", runtime.GOOS, runtime.GOARCH, b.Version, b.Machine, b.Span)
	for _, r := range b.Rows {
		u.printf("seed: %d\n", r.Seed)
		for _, o := range r.Results {
			u.printf("BenchmarkEnergy/machine=%s/load=%s/policy=%s 1 %.6g %s-J/op %.6g %s-W %d p99-ns %.6g miss-ratio", r.Machine, r.Load, o.Policy,
				float64(o.Energy)/1e6, r.Kind, float64(o.Power())/1e6, r.Kind, o.P99, o.MissRatio())
			if x := r.OverLimit(o); x > 0 {
				u.printf(" %.4f x-limit", x)
			}
			u.printf("\n")
		}
	}
}

// bench prints rows for people.
func (u *ui) bench(b jsonBench, policies []string) {
	u.table(benchTable(b, policies))
	u.printf("\n%s\n", strings.Join(benchNotes(b), "\n"))
}

// benchMarkdown prints them for a document.
func (u *ui) benchMarkdown(b jsonBench, policies []string) {
	for i, row := range benchTable(b, policies) {
		u.printf("| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			u.printf("|%s\n", strings.Repeat("---|", len(row)))
		}
	}
	u.printf("\n%s\n", strings.Join(benchNotes(b), "\n\n"))
}

func benchNotes(b jsonBench) []string {
	return []string{
		"Energy as a multiple of the limit, which knows the future; late: over 1 % of the deadlines missed, or p99 beyond its bound.",
		b.Summary.String() + ".",
		fmt.Sprintf("Joules are %s; seed %d, %v on the machine's clock, version %s.", b.Rows[0].Kind, b.Rows[0].Seed, b.Span, b.Version),
	}
}

// benchTable has a row for each case, the first being the heads of the columns.
func benchTable(b jsonBench, policies []string) [][]string {
	head := append([]string{"machine", "load", "limit"}, policies...)
	judged := slices.Contains(policies, bench.Powerd)
	if judged {
		head = append(head, "powerd against the best of "+strings.Join(bench.Rivals, ", "))
	}
	rows := [][]string{head}
	for _, r := range b.Rows {
		row := []string{r.Machine, r.Load, "-"}
		if r.Limit > 0 {
			row[2] = fmt.Sprintf("%.4g J", r.Limit)
		}
		for _, o := range r.Results {
			cell := fmt.Sprintf("%.4g J", float64(o.Energy)/1e6)
			if r.Limit > 0 {
				cell = fmt.Sprintf("%.3f", float64(o.Energy)/1e6/r.Limit)
			}
			if o.Late() {
				cell += " late"
			}
			row = append(row, cell)
		}
		if judged {
			v := r.Verdict
			switch {
			case v.Why != "":
				row = append(row, v.Why)
			case v.Rival == "":
				row = append(row, "none did as well")
			default:
				row = append(row, fmt.Sprintf("%.3f of %s", v.Ratio, v.Rival))
			}
		}
		rows = append(rows, row)
	}
	return rows
}
