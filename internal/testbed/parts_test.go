package testbed

import (
	"bytes"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/u-root/u-root/pkg/cpio"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/units"
)

func TestPackages(t *testing.T) {
	if got := parseDepends("linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n"); got != "linux-image-6.1.0-56-amd64" {
		t.Errorf("the kernel is %q", got)
	}
	const policy = "linux-image-6.1.0-56-amd64:\n  Installed: (none)\n  Candidate: 6.1.192-2\n"
	if got := parseCandidate(policy); got != "6.1.192-2" {
		t.Errorf("its version is %q", got)
	}
	if got := parseCandidate("x:\n  Candidate: (none)\n"); got != "" {
		t.Errorf("a package without candidate has version %q", got)
	}
	if got := parseCodename("ID=debian\nVERSION_CODENAME=bookworm\n"); got != "bookworm" {
		t.Errorf("the suite is %q", got)
	}
}

const modulesDep = `kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/mbcache.ko kernel/fs/jbd2/jbd2.ko
kernel/fs/jbd2/jbd2.ko: kernel/lib/crc16.ko
kernel/fs/mbcache.ko:
kernel/lib/crc16.ko:
kernel/drivers/cpufreq/acpi-cpufreq.ko.xz:
`

func TestLoadOrder(t *testing.T) {
	deps, err := parseModulesDep(modulesDep)
	if err != nil {
		t.Fatal(err)
	}
	got, err := loadOrder(deps, "acpi_cpufreq", "ext4", "jbd2")
	want := []string{"kernel/drivers/cpufreq/acpi-cpufreq.ko.xz", "kernel/lib/crc16.ko", "kernel/fs/mbcache.ko",
		"kernel/fs/jbd2/jbd2.ko", "kernel/fs/ext4/ext4.ko"}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Error(err, d)
	}
	if _, err := loadOrder(deps, "nonesuch"); err == nil {
		t.Error("a module that is not there has an order")
	}
	if _, err := loadOrder(map[string][]string{"a.ko": {"b.ko"}, "b.ko": {"a.ko"}}, "a"); err == nil {
		t.Error("a circle has an order")
	}
	if _, err := parseModulesDep("kernel/lib/crc16.ko\n"); err == nil {
		t.Error("a line without colon is taken")
	}
}

func FuzzParseModulesDep(f *testing.F) {
	f.Add(modulesDep)
	f.Add("a.ko: a.ko\n#\n:\n")
	f.Fuzz(func(t *testing.T, s string) {
		deps, err := parseModulesDep(s)
		if err != nil {
			return
		}
		for file := range deps {
			order, err := loadOrder(deps, moduleName(file))
			if err == nil && moduleName(order[len(order)-1]) != moduleName(file) {
				t.Errorf("%q does not come last in %q", file, order)
			}
		}
	})
}

func TestArchive(t *testing.T) {
	var b bytes.Buffer
	if err := writeArchive(&b, []cpio.Record{
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.StaticFile("init", "program", 0o755),
		cpio.StaticFile("etc/powerd/policy.yaml", "classes: []", 0o640),
	}); err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(b.Bytes())))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range records {
		names = append(names, r.Name)
	}
	// Folders come once and before what is in them.
	want := []string{"dev", "dev/console", ".", "init", "etc", "etc/powerd", "etc/powerd/policy.yaml"}
	if d := cmp.Diff(want, names); d != "" {
		t.Error(d)
	}
}

func TestInitramfsRefuses(t *testing.T) {
	dir := t.TempDir()
	k := &kernel{modules: dir, deps: map[string][]string{}}
	for _, m := range nodeModules {
		k.deps[m+".ko"] = nil
		if err := os.WriteFile(filepath.Join(dir, m+".ko"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "virtio_pci.ko")
	for want, tt := range map[string]struct {
		disk  bool
		files map[string]string
	}{
		"cannot find module virtio_blk":        {disk: true},
		"the path is not absolute and clean":   {files: map[string]string{"etc/f": file}},
		"cannot take /f into the guest: open ": {files: map[string]string{"/f": filepath.Join(dir, "none")}},
	} {
		err := writeInitramfs(filepath.Join(dir, "initramfs"), k, file, tt.disk, nil, tt.files)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestTool(t *testing.T) {
	if _, err := tool(t.Context(), "", "nonesuch"); err == nil || !strings.Contains(err.Error(), "setup.sh") {
		t.Errorf("a program that is not there: %v", err)
	}
	if _, err := tool(t.Context(), "", "sh", "-c", "echo why >&2; exit 1"); err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("a program that fails: %v", err)
	}
}

func TestCached(t *testing.T) {
	t.Setenv("POWERD_CACHE", t.TempDir())
	builds := 0
	build := func(dir string) error {
		builds++
		if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o644); err != nil {
			return err
		}
		if builds == 1 {
			return errors.New("broken")
		}
		return nil
	}
	if _, err := cached("k", build); err == nil {
		t.Error("a build that fails is cached")
	}
	for range 2 {
		dir, err := cached("k", build)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "f")); err != nil {
			t.Error(err)
		}
	}
	if builds != 2 {
		t.Errorf("%d builds, want 2: one that fails, one that is kept", builds)
	}
}

func TestParseQMP(t *testing.T) {
	for line, ok := range map[string]bool{
		`{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}`: true,
		`{"return": {}}`: true,
		`{"error": {"class": "CommandNotFound", "desc": "The command x has not been found"}}`: true,
		`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN"}`:               true,
		`{}`:      false,
		`[]`:      false,
		``:        false,
		`{"retur`: false,
	} {
		if _, err := parseQMP([]byte(line)); (err == nil) != ok {
			t.Errorf("%s: %v, want ok %v", line, err, ok)
		}
	}
}

func FuzzParseQMP(f *testing.F) {
	f.Add([]byte(`{"return": [{"cpu-index": 0, "thread-id": 7}]}`))
	f.Add([]byte(`{"error": null, "event": "x"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if m, err := parseQMP(line); err == nil && m.Greeting == nil && m.Return == nil && m.Error == nil && m.Event == "" {
			t.Errorf("%q is nothing", line)
		}
	})
}

func TestParsePort(t *testing.T) {
	if v, err := parsePort("portb[0x0082] = 0x1f\r\n"); err != nil || v != 0x1f {
		t.Errorf("%#x, %v", v, err)
	}
	for _, s := range []string{"", "portb[0x0082] = 0x1ff", "portb[0x0082] = ", "unknown command: 'i'"} {
		if _, err := parsePort(s); err == nil {
			t.Errorf("%q is a port's value", s)
		}
	}
}

func FuzzParsePort(f *testing.F) {
	f.Add("portb[0x0082] = 0x00\r\n")
	f.Fuzz(func(t *testing.T, s string) { parsePort(s) })
}

func TestCPUHierarchy(t *testing.T) {
	const v1Mounts = "cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\ncgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n" +
		"cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
	const v2Mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"
	for _, tt := range []struct {
		mounts, self, dir string
		v2, ok            bool
	}{
		{v1Mounts, "2:cpu,cpuacct:/a\n3:cpuset:/b\n0::/c\n", "/sys/fs/cgroup/cpu,cpuacct/a", false, true},
		{v2Mounts, "0::/user.slice/session.scope\n", "/sys/fs/cgroup/user.slice", true, true},
		{v2Mounts, "0::/\n", "/sys/fs/cgroup", true, true},
		{"proc /proc proc rw 0 0\n", "0::/\n", "", false, false},
		{v2Mounts, "", "", false, false},
	} {
		dir, v2, err := cpuHierarchy(tt.mounts, tt.self)
		if dir != tt.dir || v2 != tt.v2 || (err == nil) != tt.ok {
			t.Errorf("%q: %q, %v, %v; want %q, %v, ok %v", tt.self, dir, v2, err, tt.dir, tt.v2, tt.ok)
		}
	}
}

func FuzzCPUHierarchy(f *testing.F) {
	f.Add("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n", "1:cpu:/\n")
	f.Add("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "0::/\n")
	f.Fuzz(func(t *testing.T, mounts, self string) {
		if dir, _, err := cpuHierarchy(mounts, self); (err == nil) != (dir != "") {
			t.Errorf("%q, %v", dir, err)
		}
	})
}

func TestParseSchedstat(t *testing.T) {
	if d, err := parseSchedstat("8093466 1066 33\n"); err != nil || d != 8093466 {
		t.Errorf("%v, %v", d, err)
	}
	for _, s := range []string{"", "-1 0 0", "x"} {
		if _, err := parseSchedstat(s); err == nil {
			t.Errorf("%q is a schedstat", s)
		}
	}
}

func FuzzParseSchedstat(f *testing.F) {
	f.Add("8093466 1066 33")
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := parseSchedstat(s); err == nil && d < 0 {
			t.Errorf("%q is %v", s, d)
		}
	})
}

func TestAccount(t *testing.T) {
	cfg := Config{CoresPerSocket: 3, Curve: curve(), Domains: []cpuset.Set{cpuset.Range(0, 1), cpuset.Of(2)},
		IdlePower: units.Watt, Base: 5 * units.Watt}
	a := newAccount(cfg)
	// Two seconds: the first domain at 800 MHz, where a share of 1/6 was used for
	// 0.5 s, so 3 of its 4 cpu seconds were busy at 2 W and 1 idle; the second at
	// 2400 MHz, idle.
	a.add(2*time.Second, []int{0, 4}, []time.Duration{500 * time.Millisecond, 0}, []float64{1. / 6, 0.5})
	before := a.truth()
	a.add(time.Second, []int{1, 4}, []time.Duration{0, 500 * time.Millisecond}, []float64{0.25, 0.5})
	want := Truth{Elapsed: 2 * time.Second, Energy: 19 * units.Joule, Domains: []DomainTruth{
		{Energy: 7 * units.Joule, Residency: []time.Duration{2 * time.Second, 0, 0, 0, 0}, Busy: []time.Duration{3 * time.Second, 0, 0, 0, 0}},
		{Energy: 2 * units.Joule, Residency: []time.Duration{0, 0, 0, 0, 2 * time.Second}, Busy: make([]time.Duration, 5)},
	}}
	if d := cmp.Diff(want, before); d != "" {
		t.Error(d)
	}
	// One more: 2 idle cpu seconds and one at 9.5 W.
	want = Truth{Elapsed: time.Second, Energy: 16500 * units.Millijoule, Domains: []DomainTruth{
		{Energy: 2 * units.Joule, Residency: []time.Duration{0, time.Second, 0, 0, 0}, Busy: make([]time.Duration, 5)},
		{Energy: 9500 * units.Millijoule, Residency: []time.Duration{0, 0, 0, 0, time.Second}, Busy: []time.Duration{0, 0, 0, 0, time.Second}},
	}}
	if d := cmp.Diff(want, a.truth().Sub(before)); d != "" {
		t.Error(d)
	}
}

// TestThrottle bounds a loop to a quarter of a cpu, with the cgroups of the system
// it runs on. TestThrottleV2 runs it in a guest as well.
func TestThrottle(t *testing.T) {
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	pid := cmd.Process.Pid
	th, err := newThrottle(pid, []int{pid})
	if err != nil {
		t.Fatal(err)
	}
	used := func() time.Duration {
		data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "schedstat"))
		if err != nil {
			t.Fatal(err)
		}
		d, err := parseSchedstat(string(data))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if err := th.set(0, 0.25); err != nil {
		t.Fatal(err)
	}
	began, before := time.Now(), used()
	time.Sleep(time.Second)
	if share := (used() - before).Seconds() / time.Since(began).Seconds(); math.Abs(share-0.25) > 0.1 {
		t.Errorf("it used %.2f of a cpu, want 0.25", share)
	}
	if err := th.set(0, 1); err != nil {
		t.Error(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if err := th.remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(th.base); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", th.base, err)
	}
}

func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	gone := filepath.Join(dir, ownPrefix+strconv.Itoa(dead.Process.Pid)+"-1")
	for _, name := range []string{gone, filepath.Join(dir, ownPrefix+strconv.Itoa(os.Getpid())+"-1"), filepath.Join(dir, ownPrefix+"x"), filepath.Join(dir, "other")} {
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff([]string{gone}, leftovers(dir)); d != "" {
		t.Error(d)
	}
}
