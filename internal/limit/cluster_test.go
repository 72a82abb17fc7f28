package limit

import (
	"math"
	"math/rand/v2"
	"testing"
)

// together is the linear program that Discrete states, solved by gonum as it stands.
func together(t *testing.T, jobs []Job, c Cluster) (float64, bool) {
	t.Helper()
	times := borders(jobs)
	rest := c.rest() * Horizon(jobs)
	var cost []float64
	var equal, less []row
	work := make([]row, len(jobs))
	for j := range jobs {
		work[j] = row{map[int]float64{}, jobs[j].Work}
	}
	for i := range len(times) - 1 {
		on := row{map[int]float64{}, times[i+1] - times[i]}
		for point := range c.Speed {
			awake := len(cost)
			cost = append(cost, float64(c.Cores)*c.Idle+c.Around[point]-c.rest())
			on.k[awake] = 1
			cores := row{map[int]float64{awake: -float64(c.Cores)}, 0}
			for j := range jobs {
				if jobs[j].Work > 0 && active(jobs[j], times, i) {
					y := len(cost)
					cost = append(cost, c.Power[point]-c.Idle)
					less = append(less, row{map[int]float64{y: 1, awake: -1}, 0})
					cores.k[y] = 1
					work[j].k[y] = c.Speed[point]
				}
			}
			less = append(less, cores)
		}
		less = append(less, on)
	}
	for _, w := range work {
		if w.b > 0 {
			equal = append(equal, w)
		}
	}
	if len(equal) == 0 {
		return rest, true
	}
	least, ok := solve(t, cost, equal, less)
	return least + rest, ok
}

func TestDiscreteAgainstSimplex(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	feasible := 0
	for range 200 {
		jobs, c := random(r, 1+r.IntN(4)), randomCluster(r)
		c.OwnClocks = false
		got, ok, err := Discrete(jobs, c)
		if err != nil {
			t.Fatal(err)
		}
		want, can := together(t, jobs, c)
		if ok != can || ok && math.Abs(got-want) > 1e-7*want {
			t.Fatalf("%v on %+v: %v, %v; gonum %v, %v", jobs, c, got, ok, want, can)
		}
		if ok {
			feasible++
		}
	}
	if feasible < 50 || feasible > 190 {
		t.Errorf("%d of 200 cases are feasible: they do not tell much", feasible)
	}
}
