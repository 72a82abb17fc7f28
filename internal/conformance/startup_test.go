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

// result is timeit's.
type result struct {
	Name               string
	Median, P95, Least float64
	PeakKiB            int64
}

// startBundle is what is started: a busybox root, namespaces and mounts as runc spec has
// them.
func startBundle(t *testing.T) []byte {
	t.Helper()
	s := oci.DefaultSpec()
	s.Version = "1.0.0" // Debian's crun takes no newer one
	s.Process.Terminal, s.Process.Args = false, []string{"/bin/true"}
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
	if err := n.Put("/b/config.json", startBundle(t), 0o644); err != nil {
		t.Fatal(err)
	}
	sh("cp /box/bin/busybox /b/rootfs/bin/; chmod 755 /b/rootfs/bin/busybox; ln -s busybox /b/rootfs/bin/true; cd /b/rootfs; mkdir proc dev sys")
	var b bytes.Buffer
	fmt.Fprintf(&b, "# How long a container takes to start\n\n`run` of /bin/true in a busybox root, from the command to its end, on %s: three rounds of 40\nruns of each, turn about, on Linux %s in the testbed: a machine that QEMU emulates in\nsoftware, many times slower than a real one, so only the ratios tell. `make bench-runtime`\nmade this page. Times are in ms, measured; memory is the peak of the process started.\n\nThe floor is a clone with six namespaces, a pivot_root and an execve, without mounts,\ncgroup or state. The engine in-process is what the daemon uses.\n\n",
		time.Now().Format(time.DateOnly), sh("uname -r"))
	b.WriteString("| | round | median | p95 | least | beside crun | peak KiB |\n|---|---|---|---|---|---|---|\n")
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
			peak := "-"
			if r.PeakKiB > 0 {
				peak = fmt.Sprint(r.PeakKiB)
			}
			fmt.Fprintf(&b, "| %s | %d | %.1f | %.1f | %.1f | %.2f | %s |\n", r.Name, round, r.Median, r.P95, r.Least, r.Median/crun, peak)
		}
	}
	if err := os.WriteFile("../../docs/startup.md", b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", b.Bytes())
}
