package loads

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/powerd/powerd/internal/sim"
)

// A member of a JSON object, in the file's order: rt-app's objects repeat keys.
type member struct {
	key   string
	value any // json.Number, string, bool, nil, []any or []member
}

// comments are /* */ and // to the line's end, outside of strings.
var comments = regexp.MustCompile(`(?s)"(?:\\.|[^"\\])*"|/\*.*?\*/|//[^\n]*`)

// blank replaces comments by spaces, so that places in the file stay what they are.
func blank(text string) string {
	return comments.ReplaceAllStringFunc(text, func(s string) string {
		if s[0] == '"' {
			return s
		}
		return strings.Map(func(r rune) rune {
			if r == '\n' {
				return r
			}
			return ' '
		}, s)
	})
}

// ordered reads one JSON value.
func ordered(d *json.Decoder) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('{'):
		out := []member{}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return nil, err
			}
			v, err := ordered(d)
			if err != nil {
				return nil, err
			}
			out = append(out, member{key.(string), v})
		}
		_, err = d.Token()
		return out, err
	case json.Delim('['):
		out := []any{}
		for d.More() {
			v, err := ordered(d)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		_, err = d.Token()
		return out, err
	}
	return t, nil
}

func find(m []member, key string) any {
	for _, e := range m {
		if e.key == key {
			return e.value
		}
	}
	return nil
}

// numbered tells whether key is an event, which may carry a number: run, run0, run_1.
func numbered(key, event string) bool {
	rest, ok := strings.CutPrefix(key, event)
	return ok && strings.Trim(rest, "_0123456789") == ""
}

// rtApp reads the tasks of an rt-app file: run is work on the fastest core, timer with
// its period is when it comes, sleep is time between. A task whose phases only sleep
// comes as often as it would on the fastest core. Phases of other events, and ones that
// wait for other tasks, are refused.
//
// See rt-app, doc/tutorial.txt.
func rtApp(in io.Reader) ([]Container, error) {
	text, err := io.ReadAll(io.LimitReader(in, 16<<20))
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(strings.NewReader(blank(string(text))))
	d.UseNumber()
	v, err := ordered(d)
	if err != nil {
		line := 1 + strings.Count(string(text[:min(int(d.InputOffset()), len(text))]), "\n")
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("line %d: %v", line, err)
	}
	root, _ := v.([]member)
	tasks, ok := find(root, "tasks").([]member)
	if !ok {
		return nil, errors.New("tasks: want an object of tasks")
	}
	var out []Container
	for _, t := range tasks {
		body, ok := t.value.([]member)
		if !ok {
			return nil, fmt.Errorf("tasks.%s: want an object", t.key)
		}
		if t.key == "" || strings.ContainsAny(t.key, "/\n\x00") || strings.HasPrefix(t.key, ".") {
			return nil, fmt.Errorf("tasks.%s: no name of a cgroup", t.key)
		}
		w, err := rtTask("tasks."+t.key, body)
		if err != nil {
			return nil, err
		}
		w.Cgroup = "powerd/" + t.key
		out = append(out, Container{Workload: w})
	}
	return out, nil
}

func rtTask(at string, body []member) (w sim.Workload, err error) {
	phases := []member{{"", body}}
	if p, ok := find(body, "phases").([]member); ok {
		phases = p
		at += ".phases"
	}
	instances := find(body, "instance")
	if instances != nil {
		n, err := number(at+".instance", instances)
		if err != nil {
			return w, err
		}
		w.Threads = int(n)
	}
	var pattern []sim.Job // one round, At from its begin
	length := time.Duration(0)
	for _, p := range phases {
		here := at
		if p.key != "" {
			here += "." + p.key
		}
		events, ok := p.value.([]member)
		if !ok {
			return w, fmt.Errorf("%s: want an object of events", here)
		}
		loop := 1
		if n := find(events, "loop"); n != nil && p.key != "" {
			v, err := number(here+".loop", n)
			if err != nil {
				return w, err
			}
			loop = max(1, int(v))
		}
		if loop > 1e5 {
			return w, fmt.Errorf("%s.loop: %d is too often, want at most 100000", here, loop)
		}
		var run, sleep, period time.Duration
		for _, e := range events {
			where := here + "." + e.key
			switch {
			case numbered(e.key, "run") || numbered(e.key, "runtime"):
				n, err := number(where, e.value)
				if err != nil {
					return w, err
				}
				run += time.Duration(n) * us
			case numbered(e.key, "sleep"):
				n, err := number(where, e.value)
				if err != nil {
					return w, err
				}
				sleep += time.Duration(n) * us
			case numbered(e.key, "timer"):
				timer, _ := e.value.([]member)
				n, err := number(where+".period", find(timer, "period"))
				if err != nil {
					return w, err
				}
				period = time.Duration(n) * us
			case e.key == "loop", e.key == "instance", e.key == "phases", e.key == "cpus", e.key == "priority", e.key == "policy", e.key == "nice", e.key == "delay":
			default:
				return w, fmt.Errorf("%s: this event is not simulated: want run, sleep and timer", where)
			}
		}
		every := max(period, run+sleep)
		if every == 0 {
			return w, fmt.Errorf("%s: want run, sleep or timer", here)
		}
		if float64(length)+float64(loop)*float64(every) > maxSeconds*1e9 {
			return w, fmt.Errorf("%s.loop: a round takes more than %.0g s", here, float64(maxSeconds))
		}
		for range loop {
			if run > 0 {
				j := sim.Job{At: length, Work: run}
				if period > 0 {
					j.Due = period
				}
				pattern = append(pattern, j)
			}
			length += every
		}
	}
	if len(pattern) == 0 {
		return w, fmt.Errorf("%s: it never runs", at)
	}
	w.Timer = true
	w.Jobs = repeat(pattern, length)
	return w, nil
}

// number reads microseconds or a count: 0 to 1e12.
func number(at string, v any) (float64, error) {
	n, ok := v.(json.Number)
	if ok {
		if f, err := n.Float64(); err == nil && f >= 0 && f <= 1e12 {
			return f, nil
		}
	}
	return 0, fmt.Errorf("%s: want a number of 0 or more, got %v", at, v)
}
