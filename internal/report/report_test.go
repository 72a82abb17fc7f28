package report

import (
	"bytes"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/internal/bench"
	"github.com/powerd/powerd/internal/loads"
	"github.com/powerd/powerd/internal/units"
)

var ran = sync.OnceValues(func() (Run, error) {
	r := Run{Version: "abc123", Machine: "sim", Span: 4 * time.Second, Policies: []string{"powerd", "performance", "schedutil", "powersave"}}
	for _, name := range []string{"rk3399-a72", "hi3660-a53"} {
		m, err := bench.Open(name, 0.1)
		if err != nil {
			return r, err
		}
		for _, name := range []string{"media", "web"} {
			l, err := loads.Named(name, m.Cores(), r.Span+time.Second, 3)
			if err != nil {
				return r, err
			}
			r.Cases = append(r.Cases, bench.Case{Machine: m, Load: l, Seed: 3, Span: r.Span + time.Second, Warm: time.Second})
		}
	}
	return r, nil
})

// newRun runs two loads on two machines, anew: the test may change it.
func newRun(t *testing.T) Run {
	t.Helper()
	r, err := ran()
	if err != nil {
		t.Fatal(err)
	}
	config, err := configs.Parse()
	if err != nil {
		t.Fatal(err)
	}
	r.Cases = append([]bench.Case{}, r.Cases...)
	if r.Rows, err = bench.Compare(t.Context(), r.Cases, r.Policies, config, func(bench.Row) {}); err != nil {
		t.Fatal(err)
	}
	r.Summary = bench.Summarise(r.Rows)
	return r
}

// The same run makes the same page.
func TestRepeats(t *testing.T) {
	r := newRun(t)
	var pages [2]bytes.Buffer
	for i := range pages {
		if err := Write(&pages[i], r); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(pages[0].String(), pages[1].String()); diff != "" {
		t.Error(diff)
	}
	if err := Write(&pages[0], Run{Rows: r.Rows}); err == nil {
		t.Error("rows without cases are written")
	}
}

// A page of every platform with every load stays small enough to be mailed.
func TestSize(t *testing.T) {
	r := newRun(t)
	one := r.Rows[1] // web, which has response times
	r.Policies = nil
	c := r.Cases[1]
	var results []bench.Result
	for i := range 7 {
		o := one.Results[i%len(one.Results)]
		o.Policy = fmt.Sprint("opp", i)
		o.Samples = nil
		for k := range 120 {
			o.Samples = append(o.Samples, bench.Sample{At: c.Warm + time.Duration(k+1)*r.Span/120, Power: units.Power(k * 1234567 % 7000000), Speed: float64(k%7) / 7,
				Idle: map[string]float64{"cpu-sleep": 0.1234567, "cluster-sleep": 0.2345678}})
		}
		results = append(results, o)
		r.Policies = append(r.Policies, o.Policy)
	}
	one.Results = results
	r.Rows, r.Cases = nil, nil
	for range 231 {
		r.Rows, r.Cases = append(r.Rows, one), append(r.Cases, c)
	}
	var b bytes.Buffer
	if err := Write(&b, r); err != nil {
		t.Fatal(err)
	}
	if b.Len() > 900_000 {
		t.Errorf("%d bytes for 231 cases", b.Len())
	}
}

func TestCourse(t *testing.T) {
	const warm = 3 * time.Second
	sample := func(at time.Duration, watts, speed, idle float64) bench.Sample {
		return bench.Sample{At: warm + at, Power: units.Power(watts * 1e6), Speed: speed, Idle: map[string]float64{"c1": idle}}
	}
	for name, tt := range map[string]struct {
		in   []bench.Sample
		want course
	}{
		"none":   {nil, course{}},
		"as is":  {[]bench.Sample{sample(5*time.Second, 2, 0.5, 0.2), sample(10*time.Second, 4, 1, 0.4)}, course{[]float64{2, 4}, []float64{0.5, 1}, []float64{0.3, 0}}},
		"warm":   {[]bench.Sample{sample(-time.Second, 9, 9, 9), sample(0, 9, 9, 9), sample(10*time.Second, 4, 1, 0.4)}, course{[]float64{4, 4, 4}, []float64{1, 1, 1}, []float64{0.4, 0}}},
		"uneven": {[]bench.Sample{sample(2*time.Second, 1, 0, 1), sample(8*time.Second, 2, 1, 0.5), sample(10*time.Second, 4, 1, 0)}, course{[]float64{1.4, 2, 3.2}, []float64{0.4, 1, 1}, []float64{0.5, 0}}},
	} {
		got := courseOf(tt.in, warm, warm+10*time.Second, []string{"c1", "c2"})
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(course{}), cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-9 })); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	var many []bench.Sample
	for i := range 120 {
		many = append(many, sample(time.Duration(i+1)*time.Second/12, float64(i), 1, 0))
	}
	got := courseOf(many, warm, warm+10*time.Second, nil)
	if len(got.power) != parts || math.Abs(got.power[0]-0.5) > 1e-6 || math.Abs(got.power[59]-118.5) > 1e-6 {
		t.Errorf("120 samples became %v", got.power)
	}
}

func TestShort(t *testing.T) {
	for in, want := range map[float64]float64{0: 0, 123456: 123500, -0.00123456: -0.001235, math.Inf(1): 0, 9.99999: 10} {
		if got := short(in); got != want {
			t.Errorf("short(%v) is %v, want %v", in, got, want)
		}
	}
	if got := bytesOf([]float64{0, 1, 2, 3}, 2); !bytes.Equal(got, []byte{0, 128, 255, 255}) {
		t.Errorf("bytes %v", got)
	}
	if got := bytesOf([]float64{1, 1, 1}, 2); !bytes.Equal(got, []byte{128}) {
		t.Errorf("equal values are %v", got)
	}
}

// A policy looks the same in every report.
func TestStyled(t *testing.T) {
	got := styled([]string{"opp3", "schedutil", "powerd", "opp4", "oracle-static", "performance"})
	want := []policy{{"opp3", 7, false}, {"schedutil", 3, true}, {"powerd", 0, true}, {"opp4", 8, false}, {"oracle-static", 6, false}, {"performance", 1, true}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
