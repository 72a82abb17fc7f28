package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/powerd/powerd/internal/bench"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/testbed"
	"github.com/powerd/powerd/internal/units"
)

var savings = flag.Bool("savings", false, "measure what powerd saves on a node, and write docs/testbed.md")

const savingsText = `# What powerd saves on a real kernel (measured)

%s, ` + "`make bench-testbed`" + `: ` + "`powerd bench --machine host`" + ` in a node of four cpus with two
clocks, whose clocks really slow the work down, and whose power meter the harness writes
from outside. Linux %s; performance and schedutil are the kernel's own, powerd is the
daemon, its own work included. Three runs of each, by turns, of %v, each with work of its
own seed; energy is the whole node's, %v of which go on in any case. Ratios are of runs
with the same seed: their mean, and half of what lies between the least and the greatest.

| load | policy | energy, J | of performance's | of schedutil's | deadlines missed |
|---|---|---|---|---|---|
`

// savingsLoads are rt-app's files: frames, and jobs of seconds. A node's slow clock is a host
// cpu that is taken away for tens of milliseconds, so that nothing is due sooner.
var savingsLoads = map[string]string{
	"media": `{"tasks": {
		"frames": {"run": 25000, "timer": {"ref": "a", "period": 200000}},
		"video": {"run": 60000, "timer": {"ref": "b", "period": 300000}},
		"pages": {"run": 75000, "timer": {"ref": "c", "period": 500000}}}}`,
	"batch": `{"tasks": {
		"batch-build": {"run": 1500000, "timer": {"ref": "a", "period": 6000000}},
		"batch-backup": {"run": 2000000, "timer": {"ref": "b", "period": 10000000}}}}`,
}

// On a real kernel, by a meter that it cannot fool, powerd takes less energy for the same
// work than performance and schedutil do, and misses no more deadlines. It takes ten
// minutes: ` + "`make bench-testbed`" + `.
func TestSavings(t *testing.T) {
	if !*savings {
		t.Skip("a measurement, of ten minutes: make bench-testbed")
	}
	const span = 20 * time.Second
	cfg := testbed.Config{CoresPerSocket: 4, Domains: []cpuset.Set{cpuset.Range(0, 1), cpuset.Range(2, 3)}, Curve: curve(), Meter: true,
		IdlePower: 30 * units.Milliwatt, Base: 300 * units.Milliwatt, HostShare: 0.4,
		Files: map[string]string{"/bin/powerd": staticBinary(t)}}
	for name, text := range savingsLoads {
		file := filepath.Join(t.TempDir(), name+".json")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		cfg.Files["/loads/"+name+".json"] = file
	}
	g := guestNode{testbed.Start(t, cfg), t}
	first := g.tunables()
	policies := []string{"performance", "schedutil", bench.Powerd}
	var b bytes.Buffer
	fmt.Fprintf(&b, savingsText, time.Now().Format(time.DateOnly), strings.TrimSpace(g.run("uname", "-r")), span, units.Power(cfg.Base+units.Power(cfg.CPUs())*cfg.IdlePower))
	for _, load := range []string{"media", "batch"} {
		type outcome struct {
			joules      []float64
			missed, due int
		}
		sums := map[string]*outcome{}
		for run := range 3 {
			before, err := g.Truth()
			if err != nil {
				t.Fatal(err)
			}
			out := g.run("powerd", "bench", "--machine", "host", "--load", "/loads/"+load+".json", "--policy", strings.Join(policies, ","),
				"--for", span.String(), "--seed", fmt.Sprint(run+1), "-o", "json")
			after, err := g.Truth()
			if err != nil {
				t.Fatal(err)
			}
			g.same("after a run", first)
			var got struct {
				Rows []bench.Row `json:"rows"`
			}
			if err := json.Unmarshal([]byte(out), &got); err != nil || len(got.Rows) != 1 || got.Rows[0].Kind != "measured" {
				t.Fatalf("%v\n%s", err, out)
			}
			total := 0.0
			for _, r := range got.Rows[0].Results {
				if sums[r.Policy] == nil {
					sums[r.Policy] = &outcome{}
				}
				o := sums[r.Policy]
				o.joules, o.missed, o.due = append(o.joules, float64(r.Energy)/1e6), o.missed+r.Missed, o.due+r.Due
				total += float64(r.Energy) / 1e6
				t.Logf("%s, %s: %v, %d of %d missed", load, r.Policy, r.Energy, r.Missed, r.Due)
			}
			// What is not counted is measuring the speed and the first seconds of each: some 50 J.
			if truth := float64(after.Sub(before).Energy) / 1e6; total > truth || total < 0.55*truth {
				t.Errorf("the runs took %.2f J, all that the harness knows of is %.2f", total, truth)
			}
		}
		for _, policy := range policies {
			o := sums[policy]
			joules, _ := spread(o.joules)
			fmt.Fprintf(&b, "| %s | %s | %.2f |", load, policy, joules)
			for _, other := range policies[:2] {
				var ratios []float64
				for i, j := range o.joules {
					ratios = append(ratios, j/sums[other].joules[i])
				}
				m, half := spread(ratios)
				fmt.Fprintf(&b, " %.3f +- %.3f |", m, half)
				if policy == bench.Powerd && m > 1 {
					t.Errorf("%s: powerd took %.3f of %s's energy", load, m, other)
				}
			}
			fmt.Fprintf(&b, " %d of %d |\n", o.missed, o.due)
		}
	}
	if err := os.WriteFile("../../docs/testbed.md", b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// spread returns the mean of values, and half of what lies between the least and the
// greatest.
func spread(values []float64) (mean, half float64) {
	for _, v := range values {
		mean += v / float64(len(values))
	}
	return mean, (slices.Max(values) - slices.Min(values)) / 2
}
