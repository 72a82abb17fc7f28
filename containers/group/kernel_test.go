package group

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/internal/testbed"
	"github.com/powerd/powerd/internal/units"
)

// inGuest is set where the tests of a real kernel run: in a node of their own.
const inGuest = "POWERD_GROUP_GUEST"

// TestGuest runs the tests named TestKernel in a node with systemd.
func TestGuest(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a node")
	}
	binary := filepath.Join(t.TempDir(), "group.test")
	cmd := exec.Command("go", "test", "-c", "-trimpath", "-o", binary, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var c cpufreq.Curve
	for i, mw := range []units.Power{1000, 2000} {
		f := units.Frequency(i+2) * 800 * units.MHz
		c.OPPs = append(c.OPPs, cpufreq.OPP{Frequency: f, Speed: float64(f) / float64(2400*units.MHz), Dynamic: mw * units.Milliwatt})
	}
	n := testbed.Start(t, testbed.Config{CoresPerSocket: 2, Curve: c, Root: testbed.Debian, Files: map[string]string{"/usr/bin/group.test": binary}})
	if _, err := n.Run(t.Context(), "systemctl", "is-system-running", "--wait"); err != nil {
		t.Fatal(err)
	}
	run := "^TestKernel"
	if only := os.Getenv("POWERD_GROUP_RUN"); only != "" {
		run = only
	}
	r, err := n.Do(t.Context(), testbed.Command{Argv: []string{"group.test", "-test.v", "-test.run", run, "-test.timeout", "8m"}, Env: []string{inGuest + "=1"}, Dir: "/root"})
	if err != nil {
		t.Fatal(err)
	}
	out := string(r.Stdout) + string(r.Stderr)
	if r.Code != 0 || strings.Contains(out, "--- SKIP") {
		t.Fatalf("in the guest, code %d:\n%s", r.Code, out)
	}
	data, err := os.ReadFile("kernel_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^func (TestKernel\w+)`).FindAllStringSubmatch(string(data), -1) {
		if run == "^TestKernel" && !strings.Contains(out, "--- PASS: "+m[1]+" ") {
			t.Errorf("%s did not run:\n%s", m[1], out)
		}
	}
	t.Log(out)
}

// guest skips a test that is for the node; TestGuest runs it there.
func guest(t *testing.T) {
	t.Helper()
	if os.Getenv(inGuest) == "" {
		t.Skip("TestGuest runs it in a node")
	}
}

func resource(t *testing.T, text string) *specs.LinuxResources {
	t.Helper()
	if text == "" {
		return nil
	}
	r := &specs.LinuxResources{}
	if err := json.Unmarshal([]byte(text), r); err != nil {
		t.Fatal(text, err)
	}
	return r
}

// make makes a cgroup that the test's end removes.
func create(t *testing.T, m Manager, path, limits string, o Options) *Group {
	t.Helper()
	r, err := m.Path(t.Context(), path, strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")))
	if err != nil {
		t.Fatal(err)
	}
	g, err := m.Create(t.Context(), r, resource(t, limits), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
		defer cancel()
		if err := errors.Join(g.Close(), g.Remove(ctx)); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(g.Folder()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", g.Path, err)
		}
	})
	return g
}

// start runs a shell in the cgroup, from its first instruction on.
func start(t *testing.T, g *Group, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(g.Dir.Fd()), Setpgid: true}
	return cmd
}

func output(t *testing.T, g *Group, script string) string {
	t.Helper()
	out, err := start(t, g, script).CombinedOutput()
	if err != nil {
		t.Logf("%s: %v", script, err)
	}
	return strings.TrimSpace(string(out))
}

// background starts a script and waits for the "up" that it says.
func background(t *testing.T, g *Group, script string) *exec.Cmd {
	t.Helper()
	cmd := start(t, g, script)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return cmd
}

// holds fails unless the kernel's files are as told, "file=value" each.
func holds(t *testing.T, r Ref, want ...string) {
	t.Helper()
	for _, w := range want {
		file, value, _ := strings.Cut(w, "=")
		if got := r.read(file); got != value {
			t.Errorf("%s is %q, want %q", file, got, value)
		}
	}
}

const manyLimits = `{"cpu":{"shares":512,"quota":33333,"period":50000,"burst":7000,"cpus":"1","mems":"0"},"memory":{"limit":67108864,"swap":100663296,"reservation":16777216},
"pids":{"limit":9},"blockIO":{"throttleReadBpsDevice":[{"major":254,"minor":0,"rate":1048576}],"throttleWriteIOPSDevice":[{"major":254,"minor":0,"rate":50}]},
"hugepageLimits":[{"pageSize":"2MB","limit":4194304}],"unified":{"memory.high":"33554432","cgroup.max.depth":"3"}}`

var manyFiles = []string{"cpu.weight=59", "cpu.max=33333 50000", "cpu.max.burst=7000", "cpuset.cpus=1", "cpuset.cpus.effective=1", "cpuset.mems=0", "memory.max=67108864", "memory.swap.max=33554432",
	"memory.low=16777216", "pids.max=9", "io.max=254:0 rbps=1048576 wbps=max riops=max wiops=50", "hugetlb.2MB.max=4194304", "hugetlb.2MB.rsvd.max=4194304",
	"memory.high=33554432", "cgroup.max.depth=3"}

func TestKernelLimits(t *testing.T) {
	guest(t)
	g := create(t, Manager{}, "", manyLimits, Options{})
	holds(t, g.Ref, manyFiles...)
	if got := output(t, g, "cat /proc/self/cgroup; nproc"); got != "0::/powerd-oci/testkernellimits\n1" {
		t.Errorf("inside: %q", got)
	}
	// Nine at once, not ten: the shell and eight more.
	if got := output(t, g, "for i in 1 2 3 4 5 6 7 8 9; do sleep 0.5 & done; wait"); !strings.Contains(got, "Cannot fork") {
		t.Errorf("forks are not limited: %q", got)
	}
	if err := g.Update(t.Context(), resource(t, `{"cpu":{"quota":5000,"burst":100},"memory":{"swap":134217728},"pids":{"limit":-1},"unified":{"memory.high":"max"}}`)); err != nil {
		t.Fatal(err)
	}
	holds(t, g.Ref, "cpu.max=5000 50000", "cpu.max.burst=100", "memory.swap.max=67108864", "memory.max=67108864", "pids.max=max", "memory.high=max", "cpu.weight=59")
	if err := g.Update(t.Context(), resource(t, `{"cpu":{"quota":40000,"burst":40000,"period":60000}}`)); err != nil {
		t.Fatal(err)
	}
	holds(t, g.Ref, "cpu.max=40000 60000", "cpu.max.burst=40000")
	if err := g.Update(t.Context(), resource(t, `{"cpu":{"period":80000}}`)); err != nil {
		t.Fatal(err)
	}
	holds(t, g.Ref, "cpu.max=40000 80000")
	if err := g.Update(t.Context(), resource(t, `{"cpu":{"idle":1}}`)); err != nil {
		t.Fatal(err)
	}
	holds(t, g.Ref, "cpu.idle=1")
}

// An update that fails changes nothing.
func TestKernelUpdateIsWhole(t *testing.T) {
	guest(t)
	g := create(t, Manager{}, "/whole/c1", manyLimits, Options{})
	for limits, why := range map[string]string{
		`{"pids":{"limit":3},"blockIO":{"throttleReadBpsDevice":[{"major":254,"minor":0,"rate":7}]},"unified":{"memory.high":"nonsense"}}`: `linux.resources.unified["memory.high"]: cannot write "nonsense" to memory.high of cgroup /whole/c1: invalid argument`,
		`{"pids":{"limit":3},"cpu":{"shares":5,"cpus":"99"}}`:                                                                              `linux.resources.cpu.cpus: `,
		`{"pids":{"limit":3},"devices":[{"type":"x"}]}`:                                                                                    `linux.resources.devices[0].type: `,
		`{"pids":{"limit":3},"unified":{"memory.nonesuch":"1"}}`:                                                                           `linux.resources.unified["memory.nonesuch"]: this kernel has no memory.nonesuch`,
		`{"pids":{"limit":3},"unified":{"nonesuch.max":"1"}}`:                                                                              `linux.resources.unified["nonesuch.max"]: cannot set nonesuch.max of cgroup /whole/c1: controller nonesuch is not available there: the kernel does not offer it to cgroup /`,
		`{"pids":{"limit":3},"hugepageLimits":[{"pageSize":"3MB","limit":1}]}`:                                                             `linux.resources.hugepageLimits[0]: this kernel has no hugetlb.3MB.max`,
		`{"pids":{"limit":3},"rdma":{"mlx":{"hcaObjects":1}}}`:                                                                             `linux.resources.rdma["mlx"]: cannot write`,
		`{"pids":{"limit":3},"blockIO":{"throttleReadBpsDevice":[{"major":77,"minor":0,"rate":1048576}]}}`:                                 `linux.resources.blockIO.throttleReadBpsDevice[0]: cannot write "77:0 rbps=1048576" to io.max`,
		`{"memory":{"limit":1,"checkBeforeUpdate":true}}`:                                                                                  ``, // nothing is in use yet
		`{"pids":{"limit":3},"cpu":{"quota":10}}`:                                                                                          `linux.resources.cpu.quota: cannot write`,
		`{"pids":{"limit":3},"cpu":{"burst":99000}}`:                                                                                       `linux.resources.cpu.burst: cannot write`,
		`{"pids":{"limit":3},"unified":{"cpuset.cpus":"0-1","cpuset.cpus.partition":"root"}}`:                                              `linux.resources.unified["cpuset.cpus.partition"]: the kernel says "root invalid`,
	} {
		err := g.Update(t.Context(), resource(t, limits))
		if why == "" {
			continue
		}
		var fe *FieldError
		if !errors.As(err, &fe) || !strings.HasPrefix(err.Error(), why) {
			t.Errorf("%s: %v, want %q", limits, err, why)
		}
		holds(t, g.Ref, "pids.max=9", "io.max=254:0 rbps=1048576 wbps=max riops=max wiops=50", "memory.high=33554432", "cpu.weight=59", "cpuset.cpus=1")
	}
}

// A cgroup that cannot be made as asked is not there.
func TestKernelCreateIsWhole(t *testing.T) {
	guest(t)
	for _, m := range []Manager{{}, {Systemd: true}} {
		for _, limits := range []string{`{"cpu":{"cpus":"99"}}`, `{"unified":{"memory.nonesuch":"1"}}`, `{"devices":[{"type":"x"}]}`} {
			r, err := m.Path(t.Context(), "", "whole")
			if err != nil {
				t.Fatal(err)
			}
			var fe *FieldError
			if _, err := m.Create(t.Context(), r, resource(t, limits), Options{}); !errors.As(err, &fe) {
				t.Errorf("%s: %v", limits, err)
			}
			if r.Exists() {
				t.Errorf("%s: %s is left", limits, r.Path)
			}
		}
	}
	g := create(t, Manager{}, "/whole2", "", Options{})
	if _, err := (Manager{}).Create(t.Context(), Ref{Root: g.Root, Path: g.Path}, nil, Options{}); !errors.Is(err, fs.ErrExist) || !g.Exists() {
		t.Errorf("a second of the same path: %v, %v", err, g.Exists())
	}
}

// A limit whose controller cannot come down tells where it is stuck.
func TestKernelControllers(t *testing.T) {
	guest(t)
	top := create(t, Manager{}, "/full", "", Options{})
	background(t, top, "echo up; exec sleep 1000")
	r, err := Manager{}.Path(t.Context(), "/full/below", "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Manager{}.Create(t.Context(), r, resource(t, `{"memory":{"limit":1048576}}`), Options{})
	want := "linux.resources.memory.limit: cannot set memory.max of cgroup /full/below: controller memory is not available there: cgroup /full has processes of its own and cannot pass it on"
	if err == nil || err.Error() != want || r.Exists() {
		t.Errorf("%v, want %s", err, want)
	}
}

func devicePrograms(t *testing.T, g *Group) int {
	t.Helper()
	dir, err := os.Open(g.Folder())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	q, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: ebpf.AttachCGroupDevice})
	if err != nil {
		t.Fatal(err)
	}
	return len(q.Programs)
}

func TestKernelDevices(t *testing.T) {
	guest(t)
	disk := filepath.Join(t.TempDir(), "disk")
	if err := unix.Mknod(disk, unix.S_IFBLK|0o600, int(unix.Mkdev(254, 0))); err != nil {
		t.Fatal(err)
	}
	try := func(g *Group) string {
		return output(t, g, `for d in /dev/null /dev/zero /dev/full /dev/random /dev/urandom; do head -c1 $d > /dev/null || echo no $d; done
head -c1 `+disk+` > /dev/null 2>&1 && echo read; (exec 3>>`+disk+`) 2>/dev/null && echo write; (exec 3<>`+disk+`) 2>/dev/null && echo both
(exec 3</dev/kmsg) 2>/dev/null && echo kmsg; mknod `+disk+`2 b 9 9 && rm `+disk+`2 && echo made`)
	}
	for _, m := range []Manager{{}, {Systemd: true}} {
		g := create(t, m, "", `{"devices":[{"allow":false,"access":"rwm"}]}`, Options{})
		if got := try(g); got != "made" {
			t.Errorf("denied all: %q", got)
		}
		if err := g.Update(t.Context(), resource(t, `{"devices":[{"allow":false},{"allow":true,"type":"b","major":254,"minor":0,"access":"r"}]}`)); err != nil {
			t.Fatal(err)
		}
		if got := try(g); got != "read\nmade" {
			t.Errorf("allowed to read: %q", got)
		}
		if err := g.Update(t.Context(), resource(t, `{"devices":[{"allow":true},{"allow":false,"type":"c","major":1,"minor":11}]}`)); err != nil {
			t.Fatal(err)
		}
		if got := try(g); got != "read\nwrite\nboth\nmade" {
			t.Errorf("allowed all but kmsg: %q", got)
		}
		if err := g.Update(t.Context(), resource(t, `{"pids":{"limit":50}}`)); err != nil {
			t.Fatal(err)
		}
		if n := devicePrograms(t, g); n != 1 {
			t.Errorf("%d programs are attached", n)
		}
	}
}

func TestKernelFreezeAndKill(t *testing.T) {
	guest(t)
	g := create(t, Manager{}, "", `{"pids":{"limit":40}}`, Options{})
	count := filepath.Join(t.TempDir(), "count")
	background(t, g, "mkdir "+g.Folder()+"/sub; echo up; exec >&-; (echo 0 > "+g.Folder()+"/sub/cgroup.procs; while :; do echo x >> "+count+"; done) & sleep 1000")
	size := func() int64 {
		info, err := os.Stat(count)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	grows := func() bool {
		before := size()
		for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if size() > before {
				return true
			}
		}
		return false
	}
	if !grows() {
		t.Fatal("nothing runs")
	}
	if err := g.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	holds(t, g.Ref, "cgroup.freeze=1")
	// The kernel calls a cgroup frozen once those below it are, takes that back when the
	// first of its own processes is, and says it for good after the last
	// (cgroup_propagate_frozen and cgroup_update_frozen in kernel/cgroup/freezer.c).
	frozen, err := g.Frozen()
	for deadline := time.Now().Add(5 * time.Second); !frozen && time.Now().Before(deadline); frozen, err = g.Frozen() {
		time.Sleep(10 * time.Millisecond)
	}
	before := size()
	if err != nil || !frozen || grows() || size() != before {
		t.Errorf("frozen: %v, %v, %d of %d", frozen, err, size(), before)
	}
	if err := g.Thaw(t.Context()); err != nil || !grows() {
		t.Errorf("it does not go on: %v", err)
	}
	own, err := g.Pids(false)
	all, aerr := g.Pids(true)
	if err != nil || aerr != nil || len(own) == 0 || len(all) <= len(own) {
		t.Errorf("pids %v, %v; all %v, %v", own, err, all, aerr)
	}
	// Frozen processes are killed too.
	if err := errors.Join(g.Freeze(t.Context()), g.Kill(t.Context())); err != nil {
		t.Fatal(err)
	}
	if all, err := g.Pids(true); err != nil || len(all) != 0 {
		t.Errorf("after the kill: %v, %v", all, err)
	}
	if err := g.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Without cgroup.kill, and against forks.
	background(t, g, "echo up; exec >&-; while :; do (sleep 0.01 & sleep 0.02) & sleep 0.01; done 2>/dev/null")
	if err := g.killEach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all, err := g.Pids(true); err != nil || len(all) != 0 {
		t.Errorf("after killing each: %v, %v", all, err)
	}
	// A frozen state that does not come is taken back.
	background(t, g, "echo up; exec sleep 1000")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Freeze(ended); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	} else if err != nil {
		holds(t, g.Ref, "cgroup.freeze=0")
	}
}

// What is another's is left alone, by inode; what a crash left is not.
func TestKernelRemove(t *testing.T) {
	guest(t)
	m := Manager{}
	g := create(t, m, "a/b/c", "", Options{})
	cmd := background(t, g, "mkdir -p "+g.Folder()+"/x/y "+g.Folder()+"/z; echo up; exec sleep 1000")
	other := g.Ref
	other.Inode++
	if err := errors.Join(other.Kill(t.Context()), other.Remove(t.Context())); err != nil {
		t.Error(err)
	}
	unknown := g.Ref
	unknown.Inode = 0
	if err := unknown.Remove(t.Context()); err == nil || !strings.Contains(err.Error(), "nothing tells that they are this container's") {
		t.Errorf("removing what may be another's: %v", err)
	}
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil || !g.Exists() || other.Exists() {
		t.Errorf("another's was touched: %v, %v", err, g.Exists())
	}
	for range 2 { // again is no error
		if err := g.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat("/sys/fs/cgroup/powerd-oci"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folders above are left: %v", err)
	}
	// Killed right after the folder was made.
	r, err := m.Path(t.Context(), "", "crash")
	if err = errors.Join(err, r.mkdir(), r.Remove(t.Context())); err != nil || r.Exists() {
		t.Errorf("%v, %v", err, r.Exists())
	}
}

func TestKernelOOM(t *testing.T) {
	guest(t)
	g := create(t, Manager{}, "", `{"memory":{"limit":16777216,"swap":16777216}}`, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	background(t, g, "echo up; exec sleep 1000")
	kills, err := g.OOM(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for want := uint64(1); want <= 2; want++ {
		go start(t, g, "tail /dev/zero").Run() //nolint:errcheck // it is killed
		if n, ok := <-kills; !ok || n != want {
			t.Fatalf("%d kills, %v, want %d", n, ok, want)
		}
	}
	s, err := g.Stats()
	if err != nil || s.Memory.Usage.Failcnt == 0 || s.Memory.Usage.Limit != 16777216 || s.Memory.Swap.Limit != 16777216 {
		t.Errorf("%+v, %v", s.Memory, err)
	}
	if err := g.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if n, ok := <-kills; ok {
		t.Errorf("%d kills more", n)
	}
	if ctx.Err() != nil {
		t.Error("the channel did not close by itself")
	}
}

func TestKernelStats(t *testing.T) {
	guest(t)
	g := create(t, Manager{}, "", `{"cpu":{"quota":5000,"period":10000},"pids":{"limit":20},"memory":{"limit":67108864}}`, Options{})
	background(t, g, "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; echo up; exec sleep 1000")
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	stat := parseFlat(g.read("cpu.stat"))
	if s.CPU.Usage.Total == 0 || s.CPU.Usage.Total > stat["usage_usec"]*1000 || s.CPU.Usage.User+s.CPU.Usage.Kernel == 0 || s.CPU.Throttling.Periods == 0 || s.CPU.Throttling.ThrottledTime == 0 || s.CPU.PSI == nil {
		t.Errorf("cpu: %+v, the kernel says %v", s.CPU, stat)
	}
	if s.Pids != (PidsStats{1, 20}) || s.Memory.Usage.Limit != 67108864 || s.Memory.Usage.Usage == 0 || s.Memory.Usage.Max < s.Memory.Usage.Usage || s.Memory.Raw["anon"] == 0 || len(s.Memory.Raw) < 20 || s.Memory.PSI == nil {
		t.Errorf("pids %+v, memory %+v", s.Pids, s.Memory)
	}
	if len(s.CPUSet.CPUs) != 2 || len(s.CPUSet.Mems) != 1 || s.Hugetlb["2MB"].Max == 0 || s.BlockIO.PSI == nil {
		t.Errorf("%+v, %+v, %+v", s.CPUSet, s.Hugetlb, s.BlockIO)
	}
	data, err := json.Marshal(Event{"stats", "c1", s})
	if err != nil || !strings.HasPrefix(string(data), `{"type":"stats","id":"c1","data":{"cpu":{"usage":{"total":`) {
		t.Errorf("%s, %v", data, err)
	}
	for _, key := range []string{`"throttling":{"periods":`, `"throttledTime":`, `"memory":{`, `"usage":{"limit":67108864,"usage":`, `"raw":{`, `"pids":{"current":1,"limit":20}`, `"blkio":{`, `"2MB":{"max":`, `"psi":{"some":{"avg10":`} {
		if !strings.Contains(string(data), key) {
			t.Errorf("no %s in %s", key, data)
		}
	}
}

func TestKernelDelegation(t *testing.T) {
	guest(t)
	g := create(t, Manager{}, "", "", Options{Owner: ptr(1234)})
	for file, want := range map[string]uint32{".": 1234, "cgroup.procs": 1234, "cgroup.subtree_control": 1234, "cgroup.threads": 1234, "memory.max": 0, "cgroup.kill": 0} {
		var st unix.Stat_t
		if err := unix.Stat(g.file(file), &st); err != nil || st.Uid != want {
			t.Errorf("%s belongs to %d, %v", file, st.Uid, err)
		}
	}
}

func command(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestKernelSystemd(t *testing.T) {
	guest(t)
	g := create(t, Manager{Systemd: true}, "pods-a.slice:box:c1", manyLimits, Options{Annotations: map[string]string{
		"org.systemd.property.TimeoutStopSec": "uint64 7", "org.systemd.property.Description": "'of an annotation'"}})
	if g.Path != "/pods.slice/pods-a.slice/box-c1.scope" {
		t.Fatal(g.Path)
	}
	holder := g.holder.p.Pid
	if pids, err := g.Pids(true); err != nil || len(pids) != 1 || pids[0] != holder {
		t.Errorf("%v, %v", pids, err)
	}
	// While the placeholder is in it there is room for it too.
	holds(t, g.Ref, "pids.max=10")
	background(t, g, "[ $(cat /proc/self/cgroup) = 0::"+g.Path+" ] && echo up; exec sleep 1000")
	dir := g.Dir
	g.Dir = nil // for later
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	g.Dir = dir
	holds(t, g.Ref, manyFiles...)
	if pids, err := g.Pids(true); err != nil || len(pids) != 1 || pids[0] == holder {
		t.Errorf("%v, %v", pids, err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", holder)); err == nil {
		t.Error("the placeholder is left")
	}
	show := command(t, "systemctl", "show", g.Unit, "-p", "ActiveState,Slice,Delegate,TasksMax,MemoryMax,MemorySwapMax,CPUWeight,AllowedCPUs,CPUQuotaPerSecUSec,CPUQuotaPeriodUSec,TimeoutStopUSec,Description")
	for _, want := range []string{"ActiveState=active", "Slice=pods-a.slice", "Delegate=yes", "TasksMax=9", "MemoryMax=67108864", "MemorySwapMax=33554432", "CPUWeight=59",
		"AllowedCPUs=1", "CPUQuotaPerSecUSec=670ms", "CPUQuotaPeriodUSec=50ms", "TimeoutStopUSec=7s", "Description=of an annotation"} {
		if !strings.Contains("\n"+show+"\n", "\n"+want+"\n") {
			t.Errorf("no %s in\n%s", want, show)
		}
	}
	if err := g.Update(t.Context(), resource(t, `{"memory":{"limit":33554432},"pids":{"limit":12}}`)); err != nil {
		t.Fatal(err)
	}
	// Systemd writes its own again: what it was told is as asked, the rest stays.
	command(t, "systemctl", "daemon-reload")
	holds(t, g.Ref, "memory.max=33554432", "pids.max=12", "cpuset.cpus=1", "cpu.weight=59", "hugetlb.2MB.max=4194304", "cgroup.max.depth=3")
	if n := devicePrograms(t, g); n != 1 {
		t.Errorf("%d programs are attached", n)
	}
	if err := g.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := command(t, "systemctl", "show", g.Unit, "-p", "LoadState"); out != "LoadState=not-found" {
		t.Errorf("the scope is left: %s", out)
	}
	// The same name again, at once.
	again := create(t, Manager{Systemd: true}, "pods-a.slice:box:c1", `{"pids":{"limit":1}}`, Options{})
	if got := output(t, again, "echo alone"); got != "alone" {
		t.Errorf("with a limit of one: %q", got)
	}
	// A process that ends by itself takes its scope along; Remove minds not.
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// A runtime killed at any moment leaves what Remove cleans.
func TestKernelCrash(t *testing.T) {
	guest(t)
	for _, systemd := range []string{"", "1"} {
		m := Manager{Systemd: systemd != ""}
		// How long does it take undisturbed?
		took := time.Duration(0)
		alive := 0
		for i := range 16 {
			ref, err := m.Path(t.Context(), "", fmt.Sprintf("crash%d", i))
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("/proc/self/exe", "-test.run", "^TestKernelCrasher$", "-test.v")
			cmd.Env = append(os.Environ(), "CRASH_ID="+ref.Path, "CRASH_SYSTEMD="+systemd, "CRASH_NAME="+fmt.Sprintf("crash%d", i))
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			for lines.Scan() && lines.Text() != "go" {
			}
			begin := time.Now()
			if i == 0 {
				for lines.Scan() && lines.Text() != "made" {
				}
				took = time.Since(begin)
			} else {
				time.Sleep(took * time.Duration(i) / 14) // the moment is the test's variable
			}
			if ref.Exists() {
				alive++
			}
			cmd.Process.Kill() //nolint:errcheck // it is ours
			cmd.Wait()         //nolint:errcheck // as killed
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			// The record of the second save is lost; what is in it has to end by itself.
			for ctx.Err() == nil {
				if err = ref.Remove(ctx); err == nil {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			cancel()
			if err != nil || ref.Exists() {
				t.Errorf("systemd %q, kill %d: %v, left %v", systemd, i, err, ref.Exists())
			}
		}
		if alive < 3 {
			t.Errorf("only %d of 16 kills hit a cgroup", alive)
		}
		t.Logf("systemd %q: %d of 16 kills hit a cgroup; making one took %v", systemd, alive, took)
	}
	if units := command(t, "systemctl", "list-units", "--all", "--plain", "--no-legend", "powerd-oci-crash*"); units != "" {
		t.Errorf("units are left:\n%s", units)
	}
}

// TestKernelCrasher is the runtime that TestKernelCrash kills.
func TestKernelCrasher(t *testing.T) {
	guest(t)
	id := os.Getenv("CRASH_NAME")
	if id == "" {
		return
	}
	m := Manager{Systemd: os.Getenv("CRASH_SYSTEMD") != ""}
	ref, err := m.Path(t.Context(), "", id)
	if err != nil || ref.Path != os.Getenv("CRASH_ID") {
		t.Fatal(ref, err)
	}
	os.Stdout.WriteString("go\n") //nolint:errcheck // to the test
	g, err := m.Create(t.Context(), ref, resource(t, manyLimits), Options{})
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("made\n") //nolint:errcheck // to the test
	defer g.Close()
	select {}
}

// A user's own systemd, and a user's own folders.
func TestKernelRootless(t *testing.T) {
	guest(t)
	const uid = 1000
	if os.Getenv("ROOTLESS") != "" {
		m := Manager{Systemd: os.Getenv("ROOTLESS") == "systemd", Rootless: true}
		g := create(t, m, "", `{"memory":{"limit":33554432},"pids":{"limit":5}}`, Options{})
		holds(t, g.Ref, "memory.max=33554432")
		if os.Getenv("ROOTLESS") == "folders" {
			holds(t, g.Ref, "pids.max=5")
			if got := output(t, g, "cat /proc/self/cgroup"); got != "0::"+g.Path {
				t.Errorf("inside: %q", got)
			}
			return
		}
		if !strings.HasPrefix(g.Path, "/user.slice/user-1000.slice/user@1000.service/user.slice/powerd-oci-") {
			t.Error(g.Path)
		}
		background(t, g, "echo up; exec sleep 1000")
		dir := g.Dir
		g.Dir = nil
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		g.Dir = dir
		holds(t, g.Ref, "pids.max=5")
		return
	}
	command(t, "useradd", "-u", strconv.Itoa(uid), "-m", "someone")
	// The node has no PAM modules of systemd's, and no bus for users.
	put := func(name, text string) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	put("/run/systemd/system/user@1000.service.d/test.conf", "[Service]\nPAMName=\nEnvironment=XDG_RUNTIME_DIR=/run/user/1000\n")
	for _, how := range []string{"systemd", "folders"} {
		put("/etc/systemd/user/"+how+".service", "[Service]\nType=oneshot\nDelegate=yes\nStandardOutput=file:/run/user/1000/out-"+how+"\nStandardError=inherit\nEnvironment=ROOTLESS="+how+
			" "+inGuest+"=1 XDG_RUNTIME_DIR=/run/user/1000\nExecStart=/usr/bin/group.test -test.v -test.run ^TestKernelRootless$$\n")
	}
	command(t, "systemctl", "daemon-reload")
	command(t, "systemctl", "start", "user@1000.service")
	// They run in cgroups of that user's systemd, as after a login.
	for _, how := range []string{"systemd", "folders"} {
		said, err := exec.Command("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "env", "XDG_RUNTIME_DIR=/run/user/1000", "systemctl", "--user", "start", how+".service").CombinedOutput()
		out, _ := os.ReadFile("/run/user/1000/out-" + how)
		out = append(out, said...)
		if err != nil || !strings.Contains(string(out), "--- PASS: TestKernelRootless") {
			t.Errorf("%s: %v\n%s", how, err, out)
		}
	}
}
