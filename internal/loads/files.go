package loads

import (
	"bufio"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/powerd/powerd/internal/limit"
	"github.com/powerd/powerd/internal/sim"
)

// A Point is a container's utilisation from a time on, until its next one.
type Point struct {
	At        time.Duration
	Container string
	Share     float64 // of one core, the machine's fastest
}

// chunk is how often a part of a trace's work comes; it is due after two.
const chunk = 20 * ms

// Trace makes work of utilisations: each container's comes in pieces every 20 ms. How much
// comes next nobody knows, so that it is in the class that leaves the clock to the governor.
func Trace(points []Point, span time.Duration) []Container {
	byName := map[string][]Point{}
	var names []string
	for _, p := range points {
		if byName[p.Container] == nil {
			names = append(names, p.Container)
		}
		byName[p.Container] = append(byName[p.Container], p)
	}
	var out []Container
	for _, name := range names {
		list := byName[name]
		slices.SortStableFunc(list, func(a, b Point) int { return cmp.Compare(a.At, b.At) })
		// A container that wants more than a core has threads for it.
		threads := 1.0
		for _, p := range list {
			threads = max(threads, math.Ceil(p.Share))
		}
		out = append(out, Container{Workload: sim.Workload{Cgroup: "powerd/latency-" + name, Timer: true, Threads: int(threads),
			Jobs: func(rng *rand.Rand) func() (sim.Job, bool) {
				at, i := time.Duration(rng.Int64N(int64(chunk))), 0
				return func() (sim.Job, bool) {
					for ; at < span; at += chunk {
						for i+1 < len(list) && list[i+1].At <= at {
							i++
						}
						if list[i].At > at || list[i].Share <= 0 {
							continue
						}
						j := sim.Job{At: at, Work: time.Duration(list[i].Share / threads * float64(chunk)), Due: 2 * chunk}
						at += chunk
						if j.Work > 0 {
							return j, true
						}
					}
					return sim.Job{}, false
				}
			}}})
	}
	return out
}

// Read reads a load from a file: a set of jobs (CSV, release,deadline,work), a
// utilisation trace (CSV, time_s,container,utilisation in percent), a list of
// percentages, one a line for each 300 s, as PlanetLab's are, or rt-app's JSON.
func Read(name string, in io.Reader, span time.Duration) (Load, error) {
	l := Load{Name: strings.TrimSuffix(filepath.Base(name), filepath.Ext(name)), About: name}
	text := bufio.NewReader(in)
	first, err := firstLine(text)
	if err != nil {
		return l, fmt.Errorf("cannot read load %s: %v", name, err)
	}
	switch {
	case strings.HasSuffix(name, ".json"):
		l.Containers, err = rtApp(text)
	case strings.Contains(first, "release"):
		l.Fluid = true
		var list []limit.Job
		if list, err = limit.Read(text); err == nil {
			var jobs []sim.Job
			for _, j := range list {
				jobs = append(jobs, sim.Job{At: seconds(j.Release), Work: seconds(j.Work), Due: seconds(j.Deadline - j.Release)})
			}
			l.Containers = Jobs(jobs)
		}
	case strings.Contains(first, ","):
		l.Fluid = true
		var points []Point
		if points, err = readTrace(text); err == nil {
			l.Containers = Trace(points, span)
		}
	default:
		l.Fluid = true
		var points []Point
		if points, err = readPercents(text, l.Name); err == nil {
			l.Containers = Trace(points, span)
		}
	}
	if err == nil && len(l.Containers) == 0 {
		err = errors.New("it has no work")
	}
	if err != nil {
		return l, fmt.Errorf("cannot read load %s: %v", name, err)
	}
	return l, nil
}

func firstLine(r *bufio.Reader) (string, error) {
	head, err := r.Peek(256)
	if len(head) == 0 {
		if err == nil || errors.Is(err, io.EOF) {
			err = errors.New("it is empty")
		}
		return "", err
	}
	line, _, _ := strings.Cut(string(head), "\n")
	return line, nil
}

func seconds(s float64) time.Duration { return time.Duration(math.Round(s * 1e9)) }

// maxSeconds is the longest trace: what a time.Duration holds, with room.
const maxSeconds = 1e9

func readTrace(in io.Reader) ([]Point, error) {
	r := csv.NewReader(in)
	r.FieldsPerRecord = 3
	r.TrimLeadingSpace = true
	var out []Point
	for {
		rec, err := r.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		line, _ := r.FieldPos(0)
		at, err := strconv.ParseFloat(strings.TrimSpace(rec[0]), 64)
		if err != nil && line == 1 { // the heading
			continue
		}
		if err != nil || !(at >= 0 && at <= maxSeconds) {
			return nil, fmt.Errorf("line %d: time %q is not a number of seconds", line, rec[0])
		}
		name := strings.TrimSpace(rec[1])
		if name == "" || strings.ContainsAny(name, "/\n\x00") || strings.HasPrefix(name, ".") || len(name) > 200 {
			return nil, fmt.Errorf("line %d: container %q is no name of a cgroup", line, rec[1])
		}
		share, err := percent(rec[2])
		if err != nil {
			return nil, fmt.Errorf("line %d: %v", line, err)
		}
		out = append(out, Point{At: seconds(at), Container: name, Share: share})
	}
}

func readPercents(in io.Reader, name string) ([]Point, error) {
	var out []Point
	sc := bufio.NewScanner(in)
	for line := 1; sc.Scan(); line++ {
		text := strings.TrimSpace(sc.Text())
		if text == "" {
			continue
		}
		share, err := percent(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %v", line, err)
		}
		out = append(out, Point{At: time.Duration(len(out)) * 300 * time.Second, Container: name, Share: share})
	}
	return out, sc.Err()
}

// percent reads 12.5 as 0.125 cores. A container may use many cores, so that more than
// 100 is fine.
func percent(s string) (float64, error) {
	v, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(s), "%"), 64)
	if err != nil || !(v >= 0 && v <= 1e5) {
		return 0, fmt.Errorf("utilisation %q is not a percentage", s)
	}
	return v / 100, nil
}
