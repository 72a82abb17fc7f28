package limit

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// MaxJobs bounds what Read takes.
const MaxJobs = 100_000

// Read reads jobs, one a line: release,deadline,work, in seconds. A first line of names
// may order these columns otherwise, and others beside; a line that begins with # is a
// remark. Errors name the line.
func Read(r io.Reader) ([]Job, error) {
	c := csv.NewReader(r)
	c.Comment, c.TrimLeadingSpace, c.FieldsPerRecord, c.ReuseRecord = '#', true, -1, true
	columns := []int{0, 1, 2}
	var jobs []Job
	for first := true; ; first = false {
		record, err := c.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if pe := new(csv.ParseError); errors.As(err, &pe) {
				return nil, fmt.Errorf("line %d: %w", pe.Line, pe.Err)
			}
			return nil, err
		}
		line, _ := c.FieldPos(0)
		if first {
			if named, err := heads(record); err != nil {
				return nil, fmt.Errorf("line %d: %w", line, err)
			} else if named != nil {
				columns = named
				continue
			}
		}
		if need := slices.Max(columns) + 1; len(record) < need {
			return nil, fmt.Errorf("line %d: it has %d fields, want %d: release,deadline,work", line, len(record), need)
		}
		var v [3]float64
		for i, at := range columns {
			if v[i], err = strconv.ParseFloat(strings.TrimSpace(record[at]), 64); err != nil {
				return nil, fmt.Errorf("line %d: its %s %q is no number", line, fields[i], record[at])
			}
		}
		j := Job{v[0], v[1], v[2]}
		if err := j.check(); err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		if jobs = append(jobs, j); len(jobs) > MaxJobs {
			return nil, fmt.Errorf("line %d: there are more than %d jobs", line, MaxJobs)
		}
	}
	if len(jobs) == 0 {
		return nil, errors.New("there are no jobs")
	}
	return jobs, nil
}

var fields = [3]string{"release", "deadline", "work"}

// heads tells where the columns are, if a line has their names; nil if it has numbers.
func heads(record []string) ([]int, error) {
	if _, err := strconv.ParseFloat(strings.TrimSpace(record[0]), 64); err == nil {
		return nil, nil
	}
	columns := make([]int, 3)
	for i, name := range fields {
		columns[i] = slices.IndexFunc(record, func(s string) bool { return strings.EqualFold(strings.TrimSpace(s), name) })
		if columns[i] < 0 {
			return nil, fmt.Errorf("there is no column %s: want release,deadline,work", name)
		}
	}
	return columns, nil
}
