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

// node boots a Debian with podman, runc, crun and powerd-oci.
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
		Packages: []string{"podman", "catatonit", "runc", "crun", "procps"}, Modules: []string{"overlay", "veth", "bridge"},
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
		data, err := os.ReadFile(verdictsFile)
		if err == nil {
			err = json.Unmarshal(data, &verdicts)
		}
		if err != nil {
			t.Fatal(err)
		}
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

// podman does its work with powerd-oci, as with crun.
func TestPodman(t *testing.T) {
	n := node(t)
	sh := func(t *testing.T, script, want string) {
		t.Helper()
		r, err := n.Run(t.Context(), "sh", "-c", script)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(string(r.Stdout)); r.Code != 0 || want != "*" && got != want {
			t.Errorf("%s\ncode %d, %q, want %q\n%s", script, r.Code, got, want, r.Stderr)
		}
	}
	sh(t, `cd /box; chmod 755 bin/busybox; for a in sh ls cat id sleep echo hostname grep mkdir touch stat ps kill true false tty; do ln -s busybox bin/$a; done
mkdir -p etc tmp var data; echo 'root:x:0:0::/:/bin/sh' > etc/passwd; tar -c . | podman import -q - box`, "*")
	for _, manager := range []string{"cgroupfs", "systemd"} {
		t.Run(manager, func(t *testing.T) {
			p := "podman --runtime /usr/bin/powerd-oci --cgroup-manager " + manager + " "
			for _, step := range [][2]string{
				{p + "run --rm --network none box sh -c 'echo hi; exit 0'", "hi"},
				{p + "run --rm --network none box sh -c 'exit 7'; echo $?", "7"},
				{"echo in | " + p + "run -i --rm --network none box cat", "in"},
				{p + "run --rm --network host box hostname | grep -c .", "1"},
				{p + "run --rm --network none --hostname h1 box hostname", "h1"},
				{p + "run --rm --network none -t box tty", "/dev/pts/0"},
				{p + "run --rm --network none -v /etc/hostname:/data/h:ro box cat /data/h", "testbed"},
				{p + "run --rm --network none --tmpfs /tmp/x box stat -f -c %T /tmp/x", "tmpfs"},
				{p + "run --rm --network none -u 12:34 box sh -c 'id -u; id -g' | tr '\\n' ' '", "12 34"},
				{p + "run --rm --network none -w /var -e A=b box sh -c 'pwd; echo $A' | tr '\\n' ' '", "/var b"},
				{p + "run --rm --network none --read-only box sh -c 'touch /x 2>/dev/null || echo no'", "no"},
				{p + "run --rm --network none --cap-drop all box grep CapEff /proc/self/status | tr -d '\\t'", "CapEff:0000000000000000"},
				{p + "run --rm --network none --ulimit nofile=77 box sh -c 'ulimit -n'", "77"},
				{p + "run --rm --network none --memory 64m box cat /sys/fs/cgroup/memory.max", "67108864"},
				{p + "run --rm --network none --cpus 0.5 box cat /sys/fs/cgroup/cpu.max", "50000 100000"},
				{p + "run --rm --network none --pids-limit 33 box cat /sys/fs/cgroup/pids.max", "33"},
				{p + "run --rm --network none --sysctl kernel.msgmax=4444 box cat /proc/sys/kernel/msgmax", "4444"},
				{p + "run --rm --network none --uidmap 0:100000:1000 box sh -c 'cat /proc/self/uid_map' | tr -s ' '", "0 100000 1000"},
				{p + "run --rm --network none --security-opt seccomp=unconfined box grep Seccomp: /proc/self/status | tr -d '\\t'", "Seccomp:0"},
				{p + "run --rm --network none box grep Seccomp: /proc/self/status | tr -d '\\t'", "Seccomp:2"},
				{p + "run -d --network none --name c1 box sh -c 'echo started; sleep 1000' | grep -c .", "1"},
				{p + "exec c1 sh -c 'echo in; exit 0'", "in"},
				{p + "exec -t c1 tty", "/dev/pts/0"},
				{p + "exec c1 sh -c 'exit 9'; echo $?", "9"},
				{p + "pause c1 >/dev/null && podman inspect -f '{{.State.Status}}' c1", "paused"},
				{p + "unpause c1 >/dev/null && podman inspect -f '{{.State.Status}}' c1", "running"},
				{p + "update --memory 99m c1 >/dev/null 2>&1; " + p + "top c1 args | tail -1", "*"},
				{p + "stats --no-stream --format '{{.PIDs}}' c1", "1"},
				{p + "logs c1", "started"},
				{p + "kill -s KILL c1 >/dev/null && podman wait c1", "137"},
				{p + "start c1 >/dev/null && podman inspect -f '{{.State.Status}}' c1", "running"},
				{p + "stop -t 1 c1 >/dev/null 2>&1 && podman inspect -f '{{.State.Status}}' c1", "exited"},
				{p + "rm c1 >/dev/null && podman ps -aq | wc -l", "0"},
				{"ls /run/powerd-oci 2>/dev/null | wc -l", "0"},
			} {
				sh(t, step[0], step[1])
			}
		})
	}
}
