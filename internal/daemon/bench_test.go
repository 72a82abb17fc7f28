package daemon

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/powerd/powerd/internal/sysfs"
)

// BenchmarkTick is observe, decide, apply and account on 128 cpus and 200
// containers, nothing changing ("steady") or every container's load ("moving").
func BenchmarkTick(b *testing.B) {
	for _, moving := range []bool{false, true} {
		name := map[bool]string{false: "steady", true: "moving"}[moving]
		b.Run(name, func(b *testing.B) {
			root := server().lay(b)
			m, err := sysfs.Host(root)
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close()
			j, err := sysfs.OpenJournal(b.TempDir(), m, root, "boot")
			if err != nil {
				b.Fatal(err)
			}
			defer j.Close()
			d := New(Options{FS: m, Label: "bench", Journal: j, Config: policy(b)})
			now := time.Now()
			d.Look(now)
			tick := func() {
				now = now.Add(time.Second)
				s := d.Tick(now)
				if len(s.Outcome.Failures) > 0 || len(s.Containers) != 200 {
					b.Fatalf("%d containers, failures %+v", len(s.Containers), s.Outcome.Failures)
				}
			}
			for range 5 {
				tick()
			}
			writes := d.counters.Writes
			usage := 1000000
			b.ReportAllocs()
			var spent time.Duration
			for b.Loop() {
				if moving {
					b.StopTimer()
					usage += 300000
					for i := range 200 {
						dir := "sys/fs/cgroup/" + nameOf(i) + "/"
						value := fmt.Sprintf("usage_usec %d\nuser_usec 0\nsystem_usec 0", usage+(usage/300000*7919*i)%200000)
						if err := m.WriteFile(dir+"cpu.stat", []byte(value+strings.Repeat("\n", 100-len(value)))); err != nil {
							b.Fatal(err)
						}
					}
					b.StartTimer()
				}
				began := cpuTime()
				tick()
				spent += cpuTime() - began
			}
			b.ReportMetric(float64(spent.Microseconds())/1000/float64(b.N), "cpu-ms/tick")
			b.ReportMetric(float64(d.counters.Writes-writes)/float64(b.N), "writes/tick")
			debug.FreeOSMemory()
			b.ReportMetric(rss(b), "RSS-MiB")
		})
	}
}

// rss is this process' resident memory.
func rss(tb testing.TB) float64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		tb.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(data))[1])
	if err != nil {
		tb.Fatal(err)
	}
	return float64(pages*os.Getpagesize()) / (1 << 20)
}
