package worker

import (
	"context"
	"testing"
	"time"
)

// Jobs come when they are released, take about their work, and who cannot make it is late.
func TestPlay(t *testing.T) {
	const ms = time.Millisecond
	speed := Measure(1 << 20)
	if speed.Spins <= 0 || speed.Chases <= 0 {
		t.Fatalf("%+v", speed)
	}
	p := Play{Speed: speed, CPUBound: 0.5, Memory: 1 << 20, Threads: [][]Job{
		{{At: 0, Work: 5 * ms, Due: time.Minute}, {At: 40 * ms, Work: 5 * ms}},
		{{At: 10 * ms, Work: 20 * ms, Due: ms}},
	}}
	began := time.Now()
	got := p.Run(t.Context())
	if got.Done != 3 || got.Due != 2 || got.Missed != 1 || got.Work != 30*ms || len(got.Latencies) != 3 {
		t.Errorf("%+v", got)
	}
	if d := time.Since(began); d < 40*ms || got.Latencies[2] < 10*ms {
		t.Errorf("it took %v, the longest job %v", d, got.Latencies[2])
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.Threads = [][]Job{{{At: 0, Work: time.Hour, Due: 1}, {At: time.Hour, Work: ms, Due: ms}}}
	if got := p.Run(ctx); got.Done != 0 || got.Due != 1 || got.Missed != 1 {
		t.Errorf("ended at once: %+v", got)
	}
}
