package loads

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/powerd/powerd/internal/sim"
)

// work sums up a container's jobs within span, and counts them.
func work(c Container, span time.Duration) (sum time.Duration, n int) {
	for thread := range max(1, c.Threads) {
		next := c.Stream(1, c.From, thread)
		for {
			j, ok := next()
			if !ok || c.From+j.At >= span {
				break
			}
			sum += j.Work
			n++
		}
	}
	return sum, n
}

// Every load can be done by the machine that it is for: less than half of its time on
// average, and more than a twentieth, whatever its size; jobs come in order.
func TestNamed(t *testing.T) {
	const span = 2 * time.Minute
	for _, name := range Names() {
		for _, cores := range []float64{4, 8, 48} {
			l, err := Named(name, cores, span, 3)
			if err != nil {
				t.Fatal(err)
			}
			total := time.Duration(0)
			names := map[string]bool{}
			for _, c := range l.Containers {
				until := span
				if c.Until > 0 {
					until = c.Until
				}
				sum, _ := work(c, until)
				total += sum
				if names[c.Cgroup] {
					t.Errorf("%s: two containers are called %s", name, c.Cgroup)
				}
				names[c.Cgroup] = true
				next := c.Stream(1, c.From, 0)
				for last := time.Duration(0); ; {
					j, ok := next()
					if !ok || j.At > span {
						break
					}
					if j.At < last || j.Work <= 0 {
						t.Fatalf("%s: %+v comes after %v", name, j, last)
					}
					last = j.At
				}
			}
			if u := total.Seconds() / span.Seconds() / cores; u < 0.05 || u > 0.5 {
				t.Errorf("%s keeps %g cores busy %.0f %% of the time", name, cores, 100*u)
			}
		}
	}
	if _, err := Named("nonesuch", 8, span, 1); err == nil || !strings.Contains(err.Error(), "media") {
		t.Errorf("no help for a load that there is not: %v", err)
	}
}

const rtAppFile = `{
	/* two threads; the second's phases alternate */
	"tasks" : {
		"periodic" : { "instance" : 2, "loop" : -1, "run" : 2000, "run" : 1000, "timer" : { "ref" : "unique", "period" : 10000 } }, // 30 %
		"phased" : {
			"cpus" : [0],
			"phases" : {
				"light" : { "loop" : 2, "run" : 1000, "sleep" : 9000 },
				"heavy // not a comment" : { "loop" : 1, "run0" : 5000, "timer0" : { "ref" : "a", "period" : 10000 } }
			}
		}
	},
	"global" : { "duration" : 2, "calibration" : "CPU0" }
}`

func TestRTApp(t *testing.T) {
	l, err := Read("x/rt.json", strings.NewReader(strings.Replace(rtAppFile, `"loop" : -1, `, "", 1)), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Containers) != 2 || l.Name != "rt" {
		t.Fatalf("%+v", l)
	}
	p := l.Containers[0]
	if p.Cgroup != "powerd/periodic" || p.Threads != 2 {
		t.Errorf("%+v", p)
	}
	next := p.Stream(1, 0, 0)
	a, _ := next()
	b, _ := next()
	if a.Work != 3*ms || a.Due != 10*ms || b.At-a.At != 10*ms {
		t.Errorf("periodic: %+v, %+v", a, b)
	}
	// In 30 ms: 1, 1 and 5 ms, of which the last is due.
	sum, n := work(l.Containers[1], 3*time.Second)
	if n < 297 || n > 300 || math.Abs(sum.Seconds()-0.7) > 0.02 {
		t.Errorf("phased: %d jobs of %v", n, sum)
	}
}

func TestRead(t *testing.T) {
	l, err := Read("t.csv", strings.NewReader("time_s,container,utilisation\n0,a,50\n1,a,0\n2,a,250%\n0,b,10\n"), 3*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if a, _ := work(l.Containers[0], 3*time.Second); len(l.Containers) != 2 || math.Abs(a.Seconds()-3) > 0.01 || l.Containers[0].Threads != 3 {
		t.Errorf("a works %v on %d threads", a, l.Containers[0].Threads)
	}
	if b, _ := work(l.Containers[1], 3*time.Second); math.Abs(b.Seconds()-0.3) > 0.01 {
		t.Errorf("b works %v", b)
	}
	l, err = Read("vm", strings.NewReader("10\n20\n\n30\n"), 900*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if sum, _ := work(l.Containers[0], 900*time.Second); math.Abs(sum.Seconds()-180) > 1 {
		t.Errorf("a list of percentages: %v", sum)
	}
	l, err = Read("j.csv", strings.NewReader("release,deadline,work\n1.5,4,2\n0,1,0.5\n"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if c := l.Containers[1]; c.From != time.Second || c.Until != 5*time.Second {
		t.Errorf("%+v", c)
	}
	for name, tt := range map[string]struct{ file, want string }{
		"a.csv":  {"", "empty"},
		"b.csv":  {"time_s,container,utilisation\n0,a,x\n", "line 2"},
		"c.csv":  {"time_s,container,utilisation\n-1,a,1\n", "line 2"},
		"d.csv":  {"time_s,container,utilisation\n0,../a,1\n", "line 2"},
		"e.csv":  {"time_s,container,utilisation\n", "no work"},
		"f.csv":  {"release,deadline,work\n0,1,x\n", "line 2"},
		"g":      {"10\n\n-1\n", "line 3"},
		"h.json": {"{\n\"tasks\": {\n", "line 2"},
		"i.json": {`{"tasks": {"a": {"run": -1}}}`, "tasks.a.run"},
		"j.json": {`{"tasks": {"a": {"mem": 1}}}`, "tasks.a.mem"},
		"k.json": {`{"tasks": {"a": {"sleep": 1}}}`, "tasks.a"},
		"l.json": {`{"tasks": {"a/b": {"run": 1}}}`, "tasks.a/b"},
		"m.json": {`{"tasks": {"a": {"phases": {"p": {"loop": 1e9, "run": 1}}}}}`, "tasks.a.phases.p.loop"},
		"p.json": {`{"tasks": {"a": {"phases": {"p": {"loop": 1e5, "run": 1e12}}}}}`, "tasks.a.phases.p.loop"},
		"n.json": {`[]`, "tasks"},
		"o.json": {`{"tasks": {"a": {"run": 1, "timer": 7}}}`, "tasks.a.timer.period"},
	} {
		if _, err := Read(name, strings.NewReader(tt.file), time.Minute); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func FuzzRTApp(f *testing.F) {
	f.Add(rtAppFile)
	f.Add(`{"tasks":{"a":{"run":1,"run":2}}} // `)
	f.Fuzz(func(t *testing.T, text string) {
		l, err := Read("f.json", strings.NewReader(text), time.Second)
		if err != nil {
			return
		}
		for _, c := range l.Containers {
			next := c.Stream(1, 0, 0)
			for range 10 {
				if j, ok := next(); ok && (j.Work <= 0 || j.At < 0) {
					t.Fatalf("%+v", j)
				}
			}
		}
	})
}

func FuzzTrace(f *testing.F) {
	f.Add("time_s,container,utilisation\n0,a,50\n1,a,0\n")
	f.Add("1\n2\n3")
	f.Add("release,deadline,work\n0,1,1\n")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := Read("f.csv", strings.NewReader(text), time.Second)
		if err != nil {
			return
		}
		for _, c := range l.Containers {
			next := c.Stream(1, c.From, 0)
			last := sim.Job{}
			for range 10 {
				if j, ok := next(); ok {
					if j.At < last.At {
						t.Fatalf("%+v after %+v", j, last)
					}
					last = j
				}
			}
		}
	})
}
