package bench

import (
	"time"

	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/sim"
)

// Newcomer is the machine and the work that `--machine sim` shows: two clusters of
// four cores of a platform, each with its clock, its cache and the power around
// them; and containers in the classes of configs/default.yaml, with work that ends.
// The seed moves phases and arrivals.
func Newcomer(p energy.Platform, span time.Duration, seed uint64) Case {
	const clusters, cores = 2, 4
	if p.Cluster == nil {
		// As much power around a cluster as one of its cores draws at its slowest.
		p.Cluster = &energy.Cluster{Cores: cores, Power: p.Curve.OPPs[0].Active(), Sleep: p.Curve.OPPs[0].Active() / 50}
	}
	spec := sim.FromCurve("sim:"+p.Name, p.Curve, p.Idle, clusters, cores, p.Cluster.Power)
	for i := range spec.Clusters {
		spec.Clusters[i].Asleep = p.Cluster.Sleep
	}
	const ms = time.Millisecond
	return Case{
		Platform: &p,
		Span:     span,
		Machine: sim.Config{Spec: spec, Seed: seed, Workloads: []sim.Workload{
			// Requests that arrive at random, answered in 4 ms each.
			{Cgroup: "powerd/latency-web", Period: 25 * ms, Work: 4 * ms, Poisson: true, Threads: 2},
			// Frames and audio, due when the next are.
			{Cgroup: "powerd/video", Period: 33 * ms, Work: 9 * ms},
			{Cgroup: "powerd/audio", Period: 6 * ms, Work: 600 * time.Microsecond},
			// Builds and backups: seconds of work now and then, much of it waiting for memory.
			{Cgroup: "powerd/batch-build", Period: 20 * time.Second, Work: 3500 * ms, Threads: 2},
			{Cgroup: "powerd/batch-backup", Period: 10 * time.Second, Work: 1200 * ms, CPUBound: 0.5},
		}},
	}
}
