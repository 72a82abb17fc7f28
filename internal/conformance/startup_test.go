package conformance

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/powerd/powerd/containers/oci"
)

var startup = flag.Bool("startup", false, "measure how long containers take to start, and write docs/startup.md")

// result and step are timeit's.
type result struct {
	Name               string
	Median, P95, Least float64
	Steps              []step
}

type step struct {
	Name   string
	Median float64
}

const startupText = `# How long a container takes to start

A run of /bin/true in a busybox root, from the command to its end, on %s, Linux %s:
three rounds of 40 runs of each, turn about, in the testbed: a machine that QEMU emulates in
software, many times slower than a real one, so only the ratios tell. make bench-runtime
made this page. Times are in ms, measured.

The program is /bin/true alone. The floor is a clone with six namespaces, a pivot_root and
an execve, without mounts, cgroup or state. powerd-oci is the small binary. The engine
in-process is the Go API in a process that starts many (oci.Engine, Prepare).

| | round | median | p95 | least | beside crun |
|---|---|---|---|---|---|
`

const startupWhere = `
The program's own start and end, and what the kernel does at a namespace's end, are most of
the last steps. A network namespace would be as dear as the clone and is not among them, for
Prepare has one ready. Device rules are checked by the kernel beside the clone, on another
cpu.

What the command line takes beyond the engine is Go's runtime and the initialization of the
packages in the binary. GODEBUG=inittrace=1, strace and perf found what had made it slow, on
a 2-core machine (AMD EPYC, Linux 6.18, cgroup v2 without controllers) where powerd-oci took
12.2 to 13.6 ms beside crun's 6.1 to 6.4 and runc's 20 to 22 (medians of 40), and the engine
in-process 4.9 to 5.3. These brought it to 8.9 beside 5.8, the engine to 3.3:

- 60 signals asked of Go's runtime one by one, two switches of threads each: now four beside
  what is done meanwhile, the rest after 20 ms (cmd/powerd, allSignals);
- three fsyncs of the state, 0.3 ms each: nothing of it outlives the machine's uptime;
- copies of /dev/null for each masked path, of which those not needed went only at execve, by
  a grace period of RCU each: made where they are used; an empty tmpfs for each masked folder:
  one for all;
- cgroup.kill, waiting and listing for a cgroup that is empty: one rmdir;
- device rules checked before the clone: beside it.

And these, measured when others kept the machine busy, to 5.8 beside 6.4 (least of 80):

- the packages for images and registries, 1.2 ms: a binary of powerd-oci alone, without
  elastic's maps (0.2 ms) and procfs' regular expressions (0.15 ms);
- encoding/json examining all types of a Spec, 0.7 ms: containers/oci/decode.go.
`

// startBundle is what is started: a busybox root, namespaces and mounts as runc spec has
// them.
func startBundle(t *testing.T, args ...string) []byte {
	t.Helper()
	s := oci.DefaultSpec()
	s.Version = "1.0.0" // Debian's crun takes no newer one
	s.Process.Terminal, s.Process.Args = false, args
	s.Linux.Resources = &specs.LinuxResources{}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestStartup measures, when asked to, in the testbed, where all runtimes run.
func TestStartup(t *testing.T) {
	if !*startup {
		t.Skip("a measurement: `make bench-runtime` makes it")
	}
	n := node(t)
	data, err := os.ReadFile(build(t, "./testdata/timeit"))
	if err == nil {
		err = n.Put("/usr/bin/timeit", data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	sh := func(script string) string {
		r, err := n.Run(t.Context(), "sh", "-ec", script)
		if err != nil || r.Code != 0 {
			t.Fatalf("%s: %v, code %d: %s", script, err, r.Code, r.Stderr)
		}
		return strings.TrimSpace(string(r.Stdout))
	}
	sh("mkdir -p /b/rootfs/bin")
	if err := n.Put("/b/config.json", startBundle(t, "/bin/true"), 0o644); err != nil {
		t.Fatal(err)
	}
	sh("cp /box/bin/busybox /b/rootfs/bin/; chmod 755 /b/rootfs/bin/busybox; ln -s busybox /b/rootfs/bin/true; cd /b/rootfs; mkdir proc dev sys")
	var b bytes.Buffer
	fmt.Fprintf(&b, startupText, time.Now().Format(time.DateOnly), sh("uname -r"))
	var steps []step
	whole := 0.0
	for round := 1; round <= 3; round++ {
		var results []result
		if err := json.Unmarshal([]byte(sh("timeit /b 40 powerd-oci crun runc")), &results); err != nil {
			t.Fatal(err)
		}
		crun := 0.0
		for _, r := range results {
			if r.Name == "crun" {
				crun = r.Median
			}
		}
		for _, r := range results {
			fmt.Fprintf(&b, "| %s | %d | %.1f | %.1f | %.1f | %.2f |\n", r.Name, round, r.Median, r.P95, r.Least, r.Median/crun)
			if len(r.Steps) > 0 {
				steps, whole = r.Steps, r.Median
			}
		}
	}
	b.WriteString("\n## Where the time goes\n\nThe steps of the engine in-process, in the last round (containers/oci, Engine.Step):\n\n| step | median | share |\n|---|---|---|\n")
	for _, s := range steps {
		fmt.Fprintf(&b, "| %s | %.1f | %.0f %% |\n", s.Name, s.Median, 100*s.Median/whole)
	}
	b.WriteString(startupWhere)
	if err := os.WriteFile("../../docs/startup.md", b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", b.Bytes())
}
