package worker

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/internal/cpuset"
)

// allowed are the cpus this test may use.
func allowed(t *testing.T) cpuset.Set {
	t.Helper()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	var cpus []cpuset.CPU
	for c := range 1024 {
		if set.IsSet(c) {
			cpus = append(cpus, cpuset.CPU(c))
		}
	}
	return cpuset.Of(cpus...)
}

// affinities are those of this process' threads.
func affinities(t *testing.T) map[string]int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, task := range tasks {
		data, err := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(data), "Cpus_allowed_list:")
		list, _, _ := strings.Cut(rest, "\n")
		out[strings.TrimSpace(list)]++
	}
	return out
}

// Every cpu has a thread of its own that works, and none is left after Stop.
func TestCrew(t *testing.T) {
	cpus := allowed(t)
	for _, memory := range []bool{false, true} {
		c := New(1 << 20)
		if err := c.Start(cpus, memory); err != nil {
			t.Fatal(err)
		}
		on := affinities(t)
		for cpu := range cpus.All() {
			if on[strconv.Itoa(int(cpu))] == 0 {
				t.Errorf("no thread is pinned to cpu %d: %v", cpu, on)
			}
		}
		for steps, ran := c.Work(); steps == 0 || ran == 0; steps, ran = c.Work() {
			time.Sleep(time.Millisecond)
		}
		if err := c.Kick(cpus); err != nil {
			t.Error(err)
		}
		first := strconv.Itoa(int(cpus.Min()))
		if on := affinities(t); on[first] < 2 {
			t.Errorf("the threads that do not work are not on cpu %s: %v", first, on)
		}
		c.Stop()
		if on := affinities(t); on[cpus.String()] == 0 {
			t.Errorf("after Stop no thread may run on all of %s: %v", cpus, on)
		}
		before, _ := c.Work()
		time.Sleep(20 * time.Millisecond)
		if after, _ := c.Work(); after != before {
			t.Errorf("memory %v: it works on after Stop", memory)
		}
	}
	if err := New(0).Start(cpuset.Of(4095), false); err == nil || !strings.Contains(err.Error(), "cpu 4095") {
		t.Errorf("on a cpu that is not there: %v", err)
	}
	if n := runtime.GOMAXPROCS(0); n <= runtime.NumCPU() {
		t.Errorf("%d threads may run Go code, all of which may be workers", n)
	}
}

// The walk visits every line once before it begins again.
func TestCycle(t *testing.T) {
	walk := cycle(64 * 1000)
	at, steps := uint32(0), 0
	for {
		at = walk[at]
		if at%line != 0 {
			t.Fatalf("index %d is not the beginning of a line", at)
		}
		if steps++; at == 0 || steps > 1000 {
			break
		}
	}
	if steps != 1000 {
		t.Errorf("the circle has %d of 1000 lines", steps)
	}
}
