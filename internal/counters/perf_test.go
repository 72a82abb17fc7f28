package counters

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/internal/cpuset"
)

// ownCgroup makes a cgroup below the test's own, and returns its name from the root.
func ownCgroup(t testing.TB) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	mount, own := "", ""
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" && mount == "" {
			mount = f[1]
		}
	}
	for line := range strings.Lines(string(self)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			own = rest
		}
	}
	if mount == "" {
		t.Skip("no cgroup2 is mounted here")
	}
	dir, err := os.MkdirTemp(filepath.Join(mount, own), "powerd-counters-")
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		t.Skipf("cgroups need root: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	return dir
}

// busy starts a process in a cgroup that never rests, and returns what ends it.
func busy(t testing.TB, dir string) func() {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(d.Fd()), Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		cmd.Wait()         //nolint:errcheck // it was killed
	}
}

// software counts what every kernel counts, with all else as for cycles and instructions.
func software() *Perf {
	return &Perf{root: "/", kind: unix.PERF_TYPE_SOFTWARE, events: [2]uint64{unix.PERF_COUNT_SW_TASK_CLOCK, unix.PERF_COUNT_SW_CONTEXT_SWITCHES}}
}

func online(t testing.TB) cpuset.Set {
	t.Helper()
	data, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		t.Fatal(err)
	}
	set, err := cpuset.Parse(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// usage is a cgroup's, from cpu.stat.
func usage(t *testing.T, dir string) time.Duration {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		t.Fatal(err)
	}
	var us time.Duration
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "usage_usec "); ok {
			if us, err = time.ParseDuration(strings.TrimSpace(v) + "us"); err != nil {
				t.Fatal(err)
			}
		}
	}
	return us
}

func sum(t *testing.T, c Counter) (all Count) {
	t.Helper()
	list, err := c.Read(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range list {
		all.Cycles += n.Cycles
		all.Enabled += n.Enabled
		all.Running += n.Running
	}
	return all
}

// The kernel counts, by cgroup and cpu, what tasks in the cgroup and none else do, and
// tells for how long; it goes on for who is there when the cgroup is removed.
func TestPerfCountsCgroup(t *testing.T) {
	dir, other := ownCgroup(t), ownCgroup(t)
	defer busy(t, other)()
	stop := busy(t, dir)
	defer stop()
	c, err := software().Open(dir, online(t))
	if errors.Is(err, ErrDenied) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before, used := sum(t, c), usage(t, dir)
	for usage(t, dir)-used < 300*time.Millisecond {
		time.Sleep(20 * time.Millisecond)
	}
	after, now := sum(t, c), usage(t, dir)
	counted := time.Duration(after.Cycles - before.Cycles) // task-clock, in ns
	if ran := now - used; counted < ran*8/10 || counted > ran*12/10 {
		t.Errorf("%v are counted of %v", counted, ran)
	}
	for _, d := range []time.Duration{after.Enabled - before.Enabled, after.Running - before.Running} {
		if d < counted*8/10 || d > counted*12/10 {
			t.Errorf("%v were counted in %v", counted, d)
		}
	}
	stop()
	last := sum(t, c)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if again := sum(t, c); again != last {
		t.Errorf("without its cgroup it counts %+v after %+v", again, last)
	}
	if _, err := software().Open(dir, online(t)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a cgroup that has gone: %v", err)
	}
	fds := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	open := fds()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if want := open - Descriptors*online(t).Len(); fds() != want {
		t.Errorf("%d descriptors are open, want %d", fds(), want)
	}
}

// What the processor cannot count is refused with a reason, and leaves nothing open.
func TestPerfRefuses(t *testing.T) {
	dir := ownCgroup(t)
	c, err := Host("/").Open(dir, online(t))
	switch {
	case err == nil: // this machine has counters: they count work
		defer c.Close()
		defer busy(t, dir)()
		list, err := c.Read(nil)
		for err == nil && (len(list) == 0 || list[0].Cycles == 0 && list[len(list)-1].Cycles == 0) {
			time.Sleep(10 * time.Millisecond)
			list, err = c.Read(nil)
		}
		if err != nil {
			t.Error(err)
		}
	case !errors.Is(err, ErrNone) && !errors.Is(err, ErrDenied) || errors.Is(err, fs.ErrNotExist):
		t.Errorf("%v", err)
	default:
		t.Logf("refused: %v", err)
	}
	none := &Perf{root: "/", kind: 1 << 30}
	if _, err := none.Open(dir, online(t)); !errors.Is(err, ErrNone) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("events of no kind: %v", err)
	}
	if _, err := software().Open(dir, cpuset.Of(1023)); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a cpu that there is not: %v", err)
	}
	if _, err := software().Open(dir, cpuset.Set{}); err == nil {
		t.Error("no cpus are counted")
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	few := limit
	if probe, err := os.Open("/"); err != nil {
		t.Fatal(err)
	} else {
		few.Cur = uint64(probe.Fd()) + 2 // the folder's, and one event's
		probe.Close()
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	_, err = software().Open(dir, online(t))
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, ErrCrowded) {
		t.Errorf("no descriptors are left: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	for errno, want := range map[error]error{unix.ENOENT: ErrNone, unix.EOPNOTSUPP: ErrNone, unix.ENOSYS: ErrNone, unix.EBADF: ErrNone,
		unix.EACCES: ErrDenied, unix.EPERM: ErrDenied, unix.EMFILE: ErrCrowded, unix.ENFILE: ErrCrowded, unix.ENOMEM: ErrCrowded, unix.EIO: unix.EIO} {
		if err := refused("g", 3, errno); !errors.Is(err, want) || !strings.Contains(err.Error(), errno.Error()) {
			t.Errorf("%v becomes %v", errno, err)
		}
	}
}

// On a hybrid each cpu's events are those of its kind's counters; elsewhere the generic ones.
func TestHybrid(t *testing.T) {
	root := t.TempDir()
	if p := Host(root); len(p.units) > 0 || p.config(1, 3) != 1 {
		t.Errorf("%+v", p)
	}
	for name, files := range map[string][2]string{"cpu_core": {"4\n", "0-3\n"}, "cpu_atom": {"10\n", "4-7\n"}, "cpu_lowpower": {"x\n", "8\n"}} {
		dir := filepath.Join(root, "sys/bus/event_source/devices", name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for i, file := range []string{"type", "cpus"} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(files[i]), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	p := Host(root)
	for cpu, want := range map[cpuset.CPU]uint64{0: 4<<32 | 1, 5: 10<<32 | 1, 8: 1} {
		if got := p.config(1, cpu); got != want {
			t.Errorf("cpu %d: %#x, want %#x", cpu, got, want)
		}
	}
}

// BenchmarkRead is a reading of one container on all cpus, with work on one of them.
func BenchmarkRead(b *testing.B) {
	dir := ownCgroup(b)
	defer busy(b, dir)()
	c, err := software().Open(dir, online(b))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	var list []Count
	for b.Loop() {
		if list, err = c.Read(list[:0]); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(list)), "ns/cpu")
}
