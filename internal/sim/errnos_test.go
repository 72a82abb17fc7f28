package sim

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/units"
)

// What a real kernel answered, line by line (internal/testbed/testdata/errnos.txt,
// which the testbed keeps true), the simulated one answers too, as far as it has
// the file.
func TestErrnos(t *testing.T) {
	data, err := os.ReadFile("../testbed/testdata/errnos.txt")
	if err != nil {
		t.Fatal(err)
	}
	var curve cpufreq.Curve
	for i := range units.Frequency(5) {
		curve.OPPs = append(curve.OPPs, cpufreq.OPP{Frequency: (2 + i) * 400 * units.MHz, Speed: float64(2+i) / 6, Dynamic: units.Watt})
	}
	spec := FromCurve("errnos", curve, []cstates.Model{{Name: "POLL"}, {Name: "C1", Exit: 2e-6}}, 1, 2, 0)
	spec.Clusters[0].OwnClocks = true
	// The task waits in a cgroup beside until the script calls for it.
	m, err := New(Config{Spec: spec, Workloads: []Workload{{Cgroup: "beside", Period: time.Hour, Work: time.Second}}})
	if err != nil {
		t.Fatal(err)
	}
	m.set(t, "sys/fs/cgroup/cgroup.subtree_control", "+cpuset +cpu +io +memory +pids")
	errno := func(err error) string {
		var e syscall.Errno
		switch {
		case err == nil:
			return "ok"
		case errors.As(err, &e):
			return map[syscall.Errno]string{syscall.EINVAL: "EINVAL", syscall.ENOENT: "ENOENT", syscall.EBUSY: "EBUSY", syscall.EACCES: "EACCES", syscall.ERANGE: "ERANGE",
				syscall.EEXIST: "EEXIST", syscall.ESRCH: "ESRCH", syscall.ENOSPC: "ENOSPC", syscall.EPERM: "EPERM", syscall.EISDIR: "EISDIR"}[e]
		}
		return err.Error()
	}
	checked := 0
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
			continue
		}
		file, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		op, rest, _ := strings.Cut(rest, " ")
		value := ""
		if op == "write" {
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			value, _ = strconv.Unquote(quoted)
			rest = strings.TrimPrefix(rest[len(quoted):], " ")
		}
		want, reads, hasReads := strings.Cut(rest, " ")
		reads = strings.TrimPrefix(reads, "reads ")
		file = strings.Replace(file, "/cpu1/cpufreq/", "/cpufreq/policy1/", 1) // a link
		if m.files[file] == nil && (op == "read" || op == "write") && want != "ENOENT" {
			continue // the simulated machine does not have it
		}
		var got error
		switch op {
		case "write":
			got = m.WriteFile(file, []byte(value))
		case "read":
			_, got = m.ReadFile(file)
		case "mkdir":
			got = m.Mkdir(file)
		case "remove":
			got = m.Remove(file)
		case "occupy":
			got = m.WriteFile(file+"/cgroup.procs", []byte("1000"))
		case "vacate":
			got = m.WriteFile("sys/fs/cgroup/beside/cgroup.procs", []byte("1000"))
		default:
			t.Fatalf("%s: what is %s?", line, op)
		}
		if errno(got) != want {
			t.Errorf("%s: the simulated machine says %s", line, errno(got))
		}
		checked++
		if hasReads {
			text, err := strconv.Unquote(reads)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			now, err := m.ReadFile(file)
			if strings.TrimSuffix(string(now), "\n") != strings.TrimSuffix(text, "\n") {
				t.Errorf("%s: the simulated machine's reads %q, %v", line, now, err)
			}
		}
	}
	if checked < 60 {
		t.Errorf("only %d lines could be checked", checked)
	}
}
