package limit

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// MaxJobs bounds what Read takes, and MaxRows what ReadTrace does.
const (
	MaxJobs = 100_000
	MaxRows = 2_000_000
)

// Read reads jobs, one a line: release,deadline,work, in seconds. A first line of names
// may order these columns otherwise, and others beside; a line that begins with # is a
// remark. Errors name the line.
func Read(r io.Reader) ([]Job, error) {
	var jobs []Job
	err := table(r, []string{"release", "deadline", "work"}, func(fields []string) error {
		var v [3]float64
		for i, name := range []string{"release", "deadline", "work"} {
			var err error
			if v[i], err = number(name, fields[i]); err != nil {
				return err
			}
		}
		j := Job{v[0], v[1], v[2]}
		if err := j.check(); err != nil {
			return err
		}
		if jobs = append(jobs, j); len(jobs) > MaxJobs {
			return fmt.Errorf("there are more than %d jobs", MaxJobs)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(jobs) == 0 {
		return nil, errors.New("there are no jobs")
	}
	return jobs, nil
}

// ReadTrace reads what containers use of a machine, one a line: time_s,container,utilisation,
// in seconds and percent of a core at speed 1. Each time in the file lasts until the next,
// and the last as long as the one before it; containers that have a line at a time are
// summed, and others do not run then. Lines may be in any order. It returns speeds in the
// order of time.
func ReadTrace(r io.Reader) ([]Level, error) {
	type key struct {
		time      float64
		container string
	}
	seen := map[key]bool{}
	sums := map[float64]float64{}
	err := table(r, []string{"time_s", "container", "utilisation"}, func(fields []string) error {
		at, err := number("time_s", fields[0])
		if err != nil {
			return err
		}
		u, err := number("utilisation", fields[2])
		k := key{at, strings.Clone(fields[1])}
		switch {
		case err != nil:
			return err
		case math.IsNaN(at) || math.IsInf(at, 0):
			return fmt.Errorf("its time_s %v is no time", at)
		case !(u >= 0 && u <= 1e9):
			return fmt.Errorf("its utilisation is %v, want 0 to 1e9", u)
		case seen[k]:
			return fmt.Errorf("container %q has a line at time %v already", k.container, at)
		case len(seen) == MaxRows:
			return fmt.Errorf("there are more than %d rows", MaxRows)
		}
		seen[k] = true
		sums[at] += u / 100
		return nil
	})
	if err != nil {
		return nil, err
	}
	times := slices.Sorted(maps.Keys(sums))
	if len(times) < 2 {
		return nil, fmt.Errorf("there are %d times, want 2 or more: the first lasts until the second", len(times))
	}
	if first, last := times[0], times[len(times)-1]; math.IsInf(last-first, 0) {
		return nil, fmt.Errorf("times %v and %v are too far apart", first, last)
	}
	var out []Level
	for i, t := range times {
		next := min(i+1, len(times)-1)
		out = append(out, Level{sums[t], times[next] - times[next-1]})
	}
	return out, nil
}

func number(name, s string) (float64, error) {
	v, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil {
		return 0, fmt.Errorf("its %s %q is no number", name, s)
	}
	return v, nil
}

// table reads lines of columns with names, of which the first is of numbers, and does
// something with each. Errors name the line.
func table(r io.Reader, names []string, do func(fields []string) error) error {
	c := csv.NewReader(r)
	c.Comment, c.TrimLeadingSpace, c.FieldsPerRecord, c.ReuseRecord = '#', true, -1, true
	want := strings.Join(names, ",")
	var columns []int
	fields := make([]string, len(names))
	for first := true; ; first = false {
		record, err := c.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if pe := new(csv.ParseError); errors.As(err, &pe) {
				return fmt.Errorf("line %d: %w", pe.Line, pe.Err)
			}
			return err
		}
		line, _ := c.FieldPos(0)
		if first {
			if _, err := strconv.ParseFloat(strings.TrimSpace(record[0]), 64); err == nil {
				for i := range names {
					columns = append(columns, i)
				}
			} else {
				for _, name := range names {
					at := slices.IndexFunc(record, func(s string) bool { return strings.EqualFold(strings.TrimSpace(s), name) })
					if at < 0 {
						return fmt.Errorf("line %d: there is no column %s: want %s", line, name, want)
					}
					columns = append(columns, at)
				}
				continue
			}
		}
		if need := slices.Max(columns) + 1; len(record) < need {
			return fmt.Errorf("line %d: it has %d fields, want %d: %s", line, len(record), need, want)
		}
		for i, at := range columns {
			fields[i] = record[at]
		}
		if err := do(fields); err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
	}
}
