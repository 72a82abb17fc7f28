package conformance

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/internal/testbed"
	"github.com/powerd/powerd/internal/units"
)

var update = flag.Bool("update", false, "run runc and crun too, and write docs/oci-conformance.md and testdata/verdicts.json")

func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		code           int
		stdout, stderr string
		want           Verdict
	}{
		{0, "TAP version 13\nok 1 - a\n1..1\n", "", Pass},
		{0, "ok 1 - a\nnot ok 2 - b\n", "", Fail},
		{0, "  ---\n  stdout: |\n    ok 1 - a\n    not ok 2 - inner\n  ...\nok 1 - outer\n", "", Fail},
		{0, "  ---\n  stdout: \"\"\n  ...\nok 1 - outer\n", "", Fail},
		{0, "", "", Fail},
		{1, "ok 1\n", "", Fail},
		{0, "ok 1 # SKIP no AppArmor\n", "", Skip},
		{0, "ok 1\n", "failed to start the container\n", Fail},
	} {
		if got := Judge(tt.code, tt.stdout, tt.stderr); got != tt.want {
			t.Errorf("%q: %s, want %s", tt.stdout, got, tt.want)
		}
	}
}

// programs is a disk with the validation programs, runtimetest and their root.
func programs(t *testing.T) string {
	t.Helper()
	const module = "../testbed/conformance"
	pins, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(append(pins, runtime.Version()...))
	image, err := testbed.Image(t.Context(), "validation-"+hex.EncodeToString(sum[:6]), func(dir string) error {
		build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir+"/", "tool")
		build.Dir, build.Env = module, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		list := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/opencontainers/runtime-tools")
		list.Dir = module
		out, err := list.Output()
		if err != nil {
			return err
		}
		root, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "rootfs-amd64.tar.gz"))
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "rootfs-amd64.tar.gz"), root, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// build makes a program as a node can run it.
func build(t *testing.T, pkg string, flags ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", append(append([]string{"build", "-trimpath", "-o", file}, flags...), pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return file
}

// packages are those of all tests here, so that they share one image.
var packages = []string{"podman", "catatonit", "containerd", "runc", "crun", "procps", "python3"}

// node boots a Debian with podman, containerd, runc, crun and powerd-oci.
func node(t *testing.T, disks ...string) *testbed.Node {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a node")
	}
	binary := build(t, "github.com/powerd/powerd/cmd/powerd", "-tags=powerd_oci")
	busybox, err := filepath.EvalSymlinks("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	var curve cpufreq.Curve
	for i := range 2 {
		f := units.Frequency(i+1) * units.GHz
		curve.OPPs = append(curve.OPPs, cpufreq.OPP{Frequency: f, Speed: float64(i+1) / 2, Dynamic: units.Watt})
	}
	n := testbed.Start(t, testbed.Config{CoresPerSocket: 2, Curve: curve, Root: testbed.Debian, Memory: 1024, Disks: disks,
		Packages: packages, Modules: []string{"overlay", "veth", "bridge"},
		Files: map[string]string{"/usr/bin/powerd-oci": binary, "/box/bin/busybox": busybox}})
	if r, err := n.Run(t.Context(), "systemctl", "is-system-running", "--wait"); err != nil || r.Code != 0 {
		t.Fatalf("the node: %v, %s", err, r.Stdout)
	}
	return n
}

const verdictsFile = "testdata/verdicts.json"

// Every validation program that Debian's runc passes, powerd-oci passes.
func TestValidation(t *testing.T) {
	n := node(t, programs(t))
	if r, err := n.Run(t.Context(), "sh", "-ec", "mkdir /v; mount -o ro /dev/vdb /v; ls /v"); err != nil || r.Code != 0 {
		t.Fatalf("%v, %s", err, r.Stderr)
	} else if got := len(strings.Fields(string(r.Stdout))); got < 60 {
		t.Fatalf("only %d files on the disk", got)
	}
	r, err := n.Run(t.Context(), "sh", "-c", "cd /v; ls | grep -v -e runtimetest -e rootfs -e lost")
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(string(r.Stdout))
	verdicts := map[string]map[string]Verdict{}
	said := map[string]string{}
	runtimes := []string{"powerd-oci"}
	if *update {
		runtimes = []string{"runc", "crun", "powerd-oci"}
	} else {
		verdicts = kept(t, verdictsFile)
	}
	for _, rt := range runtimes {
		verdicts[rt] = map[string]Verdict{}
		for _, name := range names {
			r, err := n.Run(t.Context(), "sh", "-c", "cd /v && RUNTIME="+rt+" timeout -k 5 60 ./"+name)
			if err != nil {
				t.Fatal(err)
			}
			verdicts[rt][name] = Judge(r.Code, string(r.Stdout), string(r.Stderr))
			if rt == "powerd-oci" {
				said[name] = string(r.Stdout) + string(r.Stderr)
			}
		}
	}
	passed := 0
	for _, name := range names {
		own, theirs := verdicts["powerd-oci"][name], verdicts["runc"][name]
		if own == Pass {
			passed++
		}
		switch {
		case theirs == "":
			t.Errorf("%s: runc's verdict is not known: run `make conformance`", name)
		case theirs == Pass && own != Pass:
			t.Errorf("%s: %s, where runc passes:\n%s", name, own, said[name])
		}
	}
	t.Logf("powerd-oci passes %d of %d", passed, len(names))
	if *update {
		write(t, n, names, verdicts)
	}
}

// kept reads verdicts that are kept in a file, by runtime and program.
func kept(t *testing.T, file string) (verdicts map[string]map[string]Verdict) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &verdicts)
	}
	if err != nil {
		t.Fatal(err)
	}
	return verdicts
}

// write keeps the verdicts, and makes the table of the documentation.
func write(t *testing.T, n *testbed.Node, names []string, verdicts map[string]map[string]Verdict) {
	t.Helper()
	data, err := json.MarshalIndent(map[string]any{"runc": verdicts["runc"], "crun": verdicts["crun"]}, "", "\t")
	if err == nil {
		err = os.WriteFile(verdictsFile, append(data, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	version := func(argv ...string) string {
		r, err := n.Run(t.Context(), argv...)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(r.Stdout), "\n")
		return first
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "# powerd-oci beside runc and crun\n\nThe validation programs of opencontainers/runtime-tools v0.9.0, run in the testbed\n(Debian, Linux %s, cgroup v2) on %s with %s and %s.\n`make conformance` made this page. A program counts as passed when it and its inner\nprocess said ok and neither said anything else.\n\n",
		version("uname", "-r"), time.Now().Format(time.DateOnly), version("runc", "--version"), version("crun", "--version"))
	fmt.Fprintf(&b, "| program | powerd-oci | runc | crun |\n|---|---|---|---|\n")
	count := map[string]int{}
	for _, name := range names {
		fmt.Fprintf(&b, "| %s |", name)
		for _, rt := range []string{"powerd-oci", "runc", "crun"} {
			v := verdicts[rt][name]
			if v == Pass {
				count[rt]++
			}
			fmt.Fprintf(&b, " %s |", v)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "| passed, of %d | %d | %d | %d |\n\n", len(names), count["powerd-oci"], count["runc"], count["crun"])
	b.WriteString("linux_ns_itype wants a container without a mount namespace. runc and crun make its root by a\nbare chroot, powerd-oci as any other: ARCHITECTURE.md says how, and what follows from it.\n\n")
	b.WriteString("The programs know neither cgroup v2 limits nor attacks; for those TestOCI in cmd/powerd\nhas its own tests, the attacks by their CVE.\n")
	if err := os.WriteFile("../../docs/oci-conformance.md", b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
