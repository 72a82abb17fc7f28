package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/powerd/powerd/containers/oci"
	"github.com/powerd/powerd/internal/testbed"
)

// What nodes that run containers have beside the least; with the same packages they
// share a disk.
var (
	containerPackages = []string{"apparmor", "procps", "uidmap"}
	containerModules  = []string{"overlay", "dummy", "veth", "bridge", "nft_masq", "nft_nat", "nft_fib_ipv4", "nft_chain_nat", "nft_ct"}
)

// bundle is what runc spec would write, for a busybox root.
func bundle(args ...string) *specs.Spec {
	caps := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: "box",
		Root:     &specs.Root{Path: "/c/rootfs", Readonly: true},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces:    []specs.LinuxNamespace{{Type: "pid"}, {Type: "network"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "cgroup"}},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/nonesuch", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			Resources:     &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "1"}, Pids: &specs.LinuxPids{Limit: ptr(int64(20))}},
		},
	}
}

func ptr[T any](v T) *T { return &v }

// put writes a bundle into the guest.
func (g guestNode) put(s *specs.Spec) {
	g.t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		g.t.Fatal(err)
	}
	if err := g.Put("/c/config.json", data, 0o644); err != nil {
		g.t.Fatal(err)
	}
}

// runIn runs a container to its end.
func (g guestNode) runIn(s *specs.Spec) testbed.Result {
	g.t.Helper()
	g.put(s)
	r, err := g.Run(g.t.Context(), "powerd-oci", "run", "-b", "/c", "c1")
	if err != nil {
		g.t.Fatal(err)
	}
	return r
}

// left fails if a container has left anything.
func (g guestNode) left() {
	g.t.Helper()
	out := g.run("sh", "-c", "ls /run/powerd-oci 2>/dev/null; ls -d /sys/fs/cgroup/powerd-oci/*/ 2>/dev/null; grep rootfs /proc/self/mounts; true")
	if strings.TrimSpace(out) != "" {
		g.t.Errorf("left behind:\n%s", out)
	}
}

// powerd as an OCI runtime on a real kernel.
func TestOCI(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a node")
	}
	binary := staticBinary(t)
	busybox, err := filepath.EvalSymlinks("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	g := guestNode{testbed.Start(t, testbed.Config{CoresPerSocket: 2, Curve: curve(), Root: testbed.Debian,
		Packages: containerPackages,
		Modules:  containerModules,
		Files: map[string]string{"/usr/bin/powerd": binary, "/usr/bin/powerd-oci": smallBinary(t), "/c/rootfs/bin/busybox": busybox,
			"/usr/bin/seccomp-agent": program(t, "./testdata/seccomp-agent")}}), t}
	g.run("systemctl", "is-system-running", "--wait")
	g.run("sh", "-ec", "cd /c/rootfs; chmod 755 bin/busybox; for a in $(bin/busybox --list); do [ $a = busybox ] || ln -s busybox bin/$a; done; chmod 755 bin/busybox; mkdir -p etc tmp; chmod 1777 tmp; ln -s /etc/shadow etc/link; ln -s ../../../../.. tmp/up")

	t.Run("both binaries", func(t *testing.T) {
		g.t = t
		if whole, small := g.run("sh", "-c", "ln -s /usr/bin/powerd /tmp/powerd-oci; /tmp/powerd-oci features"), g.run("powerd-oci", "features"); whole != small || whole == "" {
			t.Errorf("powerd started as powerd-oci has the features %s, powerd-oci %s", whole, small)
		}
	})

	t.Run("inside", func(t *testing.T) {
		g.t = t
		r := g.runIn(bundle("sh", "-c", `hostname; echo pid $$; ps | wc -l; ls / ; touch /x; echo 1 > /proc/sys/kernel/panic; cat /proc/kcore | wc -c; ls /sys/firmware | wc -l
cat /proc/self/cgroup; nproc; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; ulimit -n; ls /proc/self/fd | wc -l; ls -l /dev/null /dev/fd | cut -c1; cat /etc/link; chroot /tmp/up ls; exit 5`))
		if r.Code != 5 {
			t.Errorf("code %d, %s", r.Code, r.Stderr)
		}
		want := "box\npid 1\n4\nbin\ndev\netc\nproc\nsys\ntmp\n0\n0\n0::/\n1\nCapEff:\t0000000020000420\nCapBnd:\t0000000020000420\nNoNewPrivs:\t1\n1024\n4\nl\nc\n"
		if got := string(r.Stdout); got != want {
			t.Errorf("inside:\n%s\nwant:\n%s", got, want)
		}
		for _, refused := range []string{"/x: Read-only file system", "kernel/panic: Read-only file system", "can't open '/etc/link': No such file", "chroot: can't change root directory to '/tmp/up': Operation not permitted"} {
			if !strings.Contains(string(r.Stderr), refused) {
				t.Errorf("not refused: %s in\n%s", refused, r.Stderr)
			}
		}
		g.left()
	})

	t.Run("user namespace", func(t *testing.T) {
		g.t = t
		s := bundle("sh", "-c", "id -u; cat /proc/self/uid_map; echo x > /dev/null && echo null; sleep 1000")
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 1000}}
		s.Linux.GIDMappings = s.Linux.UIDMappings
		g.put(s)
		pid, err := g.Start(t.Context(), "/tmp/out", testbed.Command{Argv: []string{"powerd-oci", "run", "-b", "/c", "u1"}})
		if err != nil {
			t.Fatal(err)
		}
		state := specs.State{}
		for deadline := time.Now().Add(20 * time.Second); !strings.Contains(g.text("/tmp/out"), "null"); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("it says %q", g.text("/tmp/out"))
			}
		}
		if err := json.Unmarshal([]byte(g.run("powerd-oci", "state", "u1")), &state); err != nil || state.Status != "running" {
			t.Fatalf("%+v, %v", state, err)
		}
		if got := g.text(fmt.Sprintf("/proc/%d/status", state.Pid)); !strings.Contains(got, "Uid:\t1000\t1000") {
			t.Errorf("outside it is\n%s", got)
		}
		if f := strings.Fields(g.text("/tmp/out")); f[0] != "0" || f[2] != "1000" {
			t.Errorf("inside it is %q", f)
		}
		g.run("powerd-oci", "kill", "u1", "KILL")
		if code, err := g.Wait(t.Context(), pid); err != nil || code != 128+9 {
			t.Errorf("code %d, %v", code, err)
		}
		g.left()
	})

	t.Run("create, start, kill, delete", func(t *testing.T) {
		g.t = t
		g.put(bundle("sh", "-c", "trap 'exit 3' TERM; echo up > /dev/pts/../../tmp/up 2>/dev/null; while :; do sleep 1; done"))
		status := func() string {
			var s specs.State
			if err := json.Unmarshal([]byte(g.run("powerd-oci", "state", "c2")), &s); err != nil {
				t.Fatal(err)
			}
			return string(s.Status)
		}
		g.run("sh", "-c", "powerd-oci create -b /c --pid-file /tmp/pid c2 </dev/null >/dev/null 2>&1")
		if got := status(); got != "created" {
			t.Errorf("created, it is %s", got)
		}
		// It has never run outside its cgroup and its cpus.
		if got := g.text("/proc/" + g.text("/tmp/pid") + "/cgroup"); got != "0::/powerd-oci/c2" {
			t.Errorf("it is in cgroup %q", got)
		}
		if got := g.text("/sys/fs/cgroup/powerd-oci/c2/cpuset.cpus"); got != "1" {
			t.Errorf("its cpus are %q", got)
		}
		if r, err := g.Run(t.Context(), "powerd-oci", "create", "-b", "/c", "c2"); err != nil || r.Code != 1 || !strings.Contains(string(r.Stderr), "there is one already") {
			t.Errorf("twice: %v %s", err, r.Stderr)
		}
		if r, err := g.Run(t.Context(), "powerd-oci", "delete", "c2"); err != nil || r.Code != 1 || !strings.Contains(string(r.Stderr), "it is created; --force") {
			t.Errorf("deleted unstopped: %v %s", err, r.Stderr)
		}
		g.run("powerd-oci", "start", "c2")
		if got := status(); got != "running" {
			t.Errorf("started, it is %s", got)
		}
		if out := g.run("powerd-oci", "list"); !strings.Contains(out, "c2") || !strings.Contains(out, "running") {
			t.Errorf("list: %s", out)
		}
		time.Sleep(500 * time.Millisecond) // until the trap is set
		g.run("powerd-oci", "kill", "c2")
		for deadline := time.Now().Add(20 * time.Second); status() != "stopped"; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("killed, it is %s", status())
			}
		}
		g.run("powerd-oci", "delete", "c2")
		g.left()
		if r, err := g.Run(t.Context(), "powerd-oci", "state", "c2"); err != nil || r.Code != 1 || !strings.Contains(string(r.Stderr), "container does not exist") {
			t.Errorf("deleted: %v %s", err, r.Stderr)
		}
	})

	t.Run("exec, pause, resume, ps", func(t *testing.T) {
		g.t = t
		s := bundle("sh", "-c", "sleep 1000")
		s.Hostname = "e1"
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "time"})
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1000000}}
		g.put(s)
		g.run("sh", "-c", "powerd-oci run -d -b /c --pid-file /tmp/pid e1 </dev/null >/dev/null 2>&1")
		r, err := g.Run(t.Context(), "powerd-oci", "exec", "--cwd", "/tmp", "-e", "A=b", "-u", "7:8", "e1", "sh", "-c",
			`hostname; pwd; echo $A; id -u; id -g; cat /proc/self/cgroup; [ $(cut -d. -f1 /proc/uptime) -gt 1000000 ] && echo later; ls /proc/self/fd | wc -l; cat /proc/1/comm; readlink /proc/self/ns/mnt | cut -d: -f1; exit 4`)
		if want := "e1\n/tmp\nb\n7\n8\n0::/\nlater\n4\nsleep\nmnt\n"; err != nil || r.Code != 4 || string(r.Stdout) != want {
			t.Errorf("exec: %v, code %d\n%s%s\nwant:\n%s", err, r.Code, r.Stdout, r.Stderr, want)
		}
		if r, err := g.Run(t.Context(), "powerd-oci", "exec", "e1", "nonesuch"); err != nil || r.Code != 1 || !strings.Contains(string(r.Stderr), `cannot run "nonesuch": no such file`) {
			t.Errorf("exec of nothing: %v, %s", err, r.Stderr)
		}
		// It is where it belongs from its first instruction, and ps finds it.
		g.run("sh", "-c", "powerd-oci exec -d --pid-file /tmp/pid2 e1 sleep 999 </dev/null >/dev/null 2>&1")
		if got := g.text("/proc/" + g.text("/tmp/pid2") + "/cgroup"); got != "0::/powerd-oci/e1" {
			t.Errorf("exec is in cgroup %q", got)
		}
		var pids []int
		if err := json.Unmarshal([]byte(g.run("powerd-oci", "ps", "-f", "json", "e1")), &pids); err != nil || len(pids) != 2 {
			t.Errorf("ps: %v, %v", pids, err)
		}
		g.run("powerd-oci", "pause", "e1")
		if out := g.run("powerd-oci", "state", "e1"); !strings.Contains(out, `"status": "paused"`) {
			t.Errorf("paused, it is %s", out)
		}
		if got := g.text("/sys/fs/cgroup/powerd-oci/e1/cgroup.events"); !strings.Contains(got, "frozen 1") {
			t.Errorf("it is not frozen: %s", got)
		}
		if r, err := g.Run(t.Context(), "powerd-oci", "exec", "e1", "true"); err != nil || r.Code != 1 || !strings.Contains(string(r.Stderr), "it is paused") {
			t.Errorf("exec while paused: %v, %s", err, r.Stderr)
		}
		g.run("powerd-oci", "resume", "e1")
		g.run("powerd-oci", "kill", "--all", "e1", "KILL")
		for deadline := time.Now().Add(20 * time.Second); !strings.Contains(g.run("powerd-oci", "state", "e1"), "stopped"); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("it does not stop")
			}
		}
		g.run("powerd-oci", "delete", "e1")
		g.left()
	})

	// As systemd does: the container's own cgroup enables controllers, and may have no
	// processes then.
	t.Run("exec beside an init in a cgroup below", func(t *testing.T) {
		g.t = t
		s := bundle("sh", "-c", `cd /sys/fs/cgroup; mkdir init other; echo 1 > init/cgroup.procs; echo +pids > cgroup.subtree_control; sleep 1000`)
		s.Mounts[len(s.Mounts)-1].Options = []string{"rw"}
		g.put(s)
		g.run("sh", "-c", "powerd-oci run -d -b /c i1 </dev/null >/dev/null 2>&1; until grep -q pids /sys/fs/cgroup/powerd-oci/i1/cgroup.subtree_control; do sleep 0.1; done")
		if out := g.run("powerd-oci", "exec", "i1", "cat", "/proc/self/cgroup"); out != "0::/init\n" {
			t.Errorf("it runs in %q", out)
		}
		if out := g.run("powerd-oci", "exec", "--cgroup", "/other", "i1", "cat", "/proc/self/cgroup"); out != "0::/other\n" {
			t.Errorf("with --cgroup it runs in %q", out)
		}
		for cgroup, why := range map[string]string{"/": "device or resource busy", "/nonesuch": "no such file", "../../../../c": "no such file"} {
			if r, err := g.Run(t.Context(), "powerd-oci", "exec", "--cgroup", cgroup, "i1", "true"); err != nil || r.Code != 1 || !strings.Contains(string(r.Stderr), why) {
				t.Errorf("%s: %v, code %d, %s", cgroup, err, r.Code, r.Stderr)
			}
		}
		g.run("powerd-oci", "delete", "--force", "i1")
		g.left()
	})

	t.Run("asks powerd for a place before the first process", func(t *testing.T) {
		g.t = t
		g.run("sh", "-ec", `mv /usr/bin/powerd /usr/bin/powerd.real
printf '#!/bin/sh\necho $1 > /tmp/asked; cat /sys/fs/cgroup/powerd-oci/c1/cgroup.events >> /tmp/asked\n' > /usr/bin/powerd; chmod 755 /usr/bin/powerd`)
		s := bundle("true")
		if r := g.runIn(s); r.Code != 0 {
			t.Errorf("code %d, %s", r.Code, r.Stderr)
		}
		g.run("sh", "-c", "[ ! -e /tmp/asked ]") // it has no wish
		s.Annotations = map[string]string{oci.AnnotationTenant: "red", oci.AnnotationBudget: "2W"}
		if r := g.runIn(s); r.Code != 0 {
			t.Errorf("code %d, %s", r.Code, r.Stderr)
		}
		if got := g.text("/tmp/asked"); !strings.HasPrefix(got, "place\npopulated 0") {
			t.Errorf("powerd was asked %q", got)
		}
		g.run("sh", "-c", "printf '#!/bin/sh\\necho it is full; exit 1\\n' > /usr/bin/powerd")
		if r := g.runIn(s); r.Code != 1 || !strings.Contains(string(r.Stderr), "cannot let powerd place the container: it is full") {
			t.Errorf("code %d, %s", r.Code, r.Stderr)
		}
		g.run("sh", "-ec", "mv /usr/bin/powerd.real /usr/bin/powerd")
		g.left()
	})

	t.Run("memory policy, affinity, RDT, dangling links", func(t *testing.T) {
		g.t = t
		s := bundle("sh", "-c", "grep -m1 -o 'bind[^ ]*' /proc/self/numa_maps; cat /run/late/resolv.conf; sleep 1000")
		s.Root.Readonly = false
		s.Linux.Resources = nil
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}}
		s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "1"}
		g.run("sh", "-ec", "mkdir -p /c/rootfs/run; ln -s ../run/late/resolv.conf /c/rootfs/etc/resolv.conf; echo nameserver > /tmp/resolv.conf")
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/run", Type: "tmpfs", Source: "tmpfs"},
			specs.Mount{Destination: "/etc/resolv.conf", Type: "bind", Source: "/tmp/resolv.conf", Options: []string{"bind", "ro"}})
		g.put(s)
		g.run("sh", "-c", "powerd-oci run -d -b /c n1 </dev/null >/tmp/out 2>&1 || { cat /tmp/out; exit 1; }")
		for deadline := time.Now().Add(20 * time.Second); g.text("/tmp/out") != "bind=static:0\nnameserver"; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("it said %q", g.text("/tmp/out"))
				break
			}
		}
		// It is for processes that follow, not for the first.
		if got := g.run("powerd-oci", "exec", "n1", "sh", "-c", "grep -h Cpus_allowed_list /proc/1/status /proc/self/status"); got != "Cpus_allowed_list:\t0-1\nCpus_allowed_list:\t1\n" {
			t.Errorf("process 1 and exec run on %q", got)
		}
		g.run("powerd-oci", "delete", "--force", "n1")
		s.Linux.IntelRdt = &specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f"}
		if r := g.runIn(s); r.Code != 1 || !strings.Contains(string(r.Stderr), "linux.intelRdt: no resctrl file system is mounted") {
			t.Errorf("RDT: code %d, %s", r.Code, r.Stderr)
		}
		g.run("sh", "-c", "rm /c/rootfs/etc/resolv.conf")
		g.left()
	})

	t.Run("limits, update, events, systemd", func(t *testing.T) {
		g.t = t
		for _, systemd := range []bool{false, true} {
			s := bundle("sh", "-c", "cat /dev/kernel; sleep 1000")
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/kernel", Type: "c", Major: 1, Minor: 11}}
			s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
			s.Linux.Resources.CPU.Quota, s.Linux.Resources.CPU.Period = ptr(int64(50000)), ptr(uint64(100000))
			s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}
			cli, cgroup := []string{"powerd-oci"}, "/powerd-oci/l1"
			if systemd {
				cli, cgroup = append(cli, "--systemd-cgroup"), "/system.slice/powerd-l1.scope"
				s.Linux.CgroupsPath = "system.slice:powerd:l1"
			}
			g.put(s)
			g.run("sh", "-c", strings.Join(cli, " ")+" run -d -b /c --pid-file /tmp/pid l1 </dev/null >/tmp/out 2>&1 || { cat /tmp/out; exit 1; }")
			if got := g.text("/proc/" + g.text("/tmp/pid") + "/cgroup"); got != "0::"+cgroup {
				t.Errorf("systemd %v: it is in cgroup %q", systemd, got)
			}
			files := func(want ...string) {
				t.Helper()
				for i := 0; i < len(want); i += 2 {
					if got := g.text("/sys/fs/cgroup" + cgroup + "/" + want[i]); got != want[i+1] {
						t.Errorf("systemd %v: %s is %q, want %q", systemd, want[i], got, want[i+1])
					}
				}
			}
			files("cpu.max", "50000 100000", "memory.max", "67108864", "pids.max", "20", "cpuset.cpus", "1")
			g.run("powerd-oci", "update", "--cpu-quota", "30000", "--memory", "33554432", "--pids-limit", "9", "l1")
			files("cpu.max", "30000 100000", "memory.max", "33554432", "pids.max", "9")
			if r, err := g.Run(t.Context(), "powerd-oci", "update", "--cpuset-cpus", "77", "l1"); err != nil || r.Code != 1 || !strings.Contains(string(r.Stderr), "linux.resources.cpu.cpus") {
				t.Errorf("update to a cpu that is not there: %v, code %d, %s", err, r.Code, r.Stderr)
			}
			var event struct {
				Type string
				Data struct {
					Memory struct{ Usage struct{ Limit uint64 } }
				}
			}
			if err := json.Unmarshal([]byte(g.run("powerd-oci", "events", "--stats", "l1")), &event); err != nil || event.Type != "stats" || event.Data.Memory.Usage.Limit != 32<<20 {
				t.Errorf("events: %+v, %v", event, err)
			}
			if out := g.text("/tmp/out"); !strings.Contains(out, "'/dev/kernel': Operation not permitted") {
				t.Errorf("a device that is denied: %q", out)
			}
			g.run("powerd-oci", "delete", "--force", "l1")
			if r, err := g.Run(t.Context(), "ls", "/sys/fs/cgroup"+cgroup); err != nil || r.Code == 0 {
				t.Errorf("its cgroup is left: %v", err)
			}
			g.left()
		}
	})

	t.Run("seccomp", func(t *testing.T) {
		g.t = t
		for _, noNewPrivs := range []bool{true, false} {
			s := bundle("sh", "-c", "mkdir /tmp/d; chmod 700 /tmp; grep Seccomp: /proc/self/status; sleep 1000")
			s.Root.Readonly = false
			s.Process.NoNewPrivileges = noNewPrivs
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
				{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: ptr(uint(28))}, // ENOSPC
				{Names: []string{"chmod", "fchmodat"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 1, Value: 0o700, Op: specs.OpEqualTo}}},
				{Names: []string{"fchmodat"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 2, Value: 0o700, Op: specs.OpEqualTo}}}}}
			g.put(s)
			g.run("sh", "-c", "powerd-oci run -d -b /c s1 </dev/null >/tmp/out 2>&1 || { cat /tmp/out; exit 1; }")
			r, err := g.Run(t.Context(), "powerd-oci", "exec", "s1", "sh", "-c", "mkdir /tmp/d; chmod 701 /tmp && echo changed; chmod 1777 /tmp; grep Seccomp: /proc/self/status")
			if err != nil || string(r.Stdout) != "changed\nSeccomp:\t2\n" || !strings.Contains(string(r.Stderr), "No space left") {
				t.Errorf("exec: %v, %s%s", err, r.Stdout, r.Stderr)
			}
			g.run("powerd-oci", "delete", "--force", "s1")
			if out := g.text("/tmp/out"); !strings.Contains(out, "'/tmp/d': No space left") || !strings.Contains(out, "/tmp: Operation not permitted") || !strings.Contains(out, "Seccomp:\t2") {
				t.Errorf("the program: %s", out)
			}
		}
		g.left()
	})

	t.Run("terminal", func(t *testing.T) {
		g.t = t
		s := bundle("sh", "-c", "tty; stty size; ls -l /dev/console | cut -c1; echo to console > /dev/console; readlink /proc/self/fd/0")
		s.Process.Terminal = true
		s.Process.ConsoleSize = &specs.Box{Height: 33, Width: 99}
		r := g.runIn(s)
		if want := "/dev/pts/0\r\n33 99\r\nc\r\nto console\r\n/dev/pts/0\r\n"; r.Code != 0 || string(r.Stdout) != want {
			t.Errorf("code %d\n%q%s\nwant %q", r.Code, r.Stdout, r.Stderr, want)
		}
		g.left()
	})

	t.Run("hooks", func(t *testing.T) {
		g.t = t
		s := bundle("sh", "-c", "echo program >> /tmp/log")
		s.Root.Readonly = false
		g.run("sh", "-c", "printf '#!/bin/sh\\nread state\\ncase $state in *creating*) s=creating;; *created*) s=created;; *running*) s=running;; *stopped*) s=stopped;; esac\\necho $1 $s $(hostname) $HOOK >> ${2:-/c/rootfs/tmp/log}\\n' > /c/hook; cp /c/hook /c/rootfs/hook; chmod 755 /c/hook /c/rootfs/hook; rm -f /c/rootfs/tmp/log")
		hook := func(path string, args ...string) []specs.Hook {
			return []specs.Hook{{Path: path, Args: append([]string{"hook"}, args...), Env: []string{"HOOK=h", "PATH=/bin"}, Timeout: ptr(20)}}
		}
		s.Hooks = &specs.Hooks{CreateRuntime: hook("/c/hook", "createRuntime"), CreateContainer: hook("/c/hook", "createContainer"),
			StartContainer: hook("/hook", "startContainer", "/tmp/log"), Poststart: hook("/bin/true"), Poststop: hook("/c/hook", "poststop")}
		if r := g.runIn(s); r.Code != 0 {
			t.Errorf("code %d, %s", r.Code, r.Stderr)
		}
		host := strings.TrimSpace(g.run("hostname"))
		want := "createRuntime creating " + host + " h\ncreateContainer creating box h\nstartContainer created box h\nprogram\npoststop stopped " + host + " h"
		if got := g.text("/c/rootfs/tmp/log"); got != want {
			t.Errorf("hooks:\n%s\nwant:\n%s", got, want)
		}
		s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo no >&2; exit 3"}}}}
		if r := g.runIn(s); r.Code != 1 || !strings.Contains(string(r.Stderr), "hooks.createContainer[0] /bin/sh: it ended with code 3: no") {
			t.Errorf("a failing hook: code %d, %s", r.Code, r.Stderr)
		}
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Timeout: ptr(1)}}}
		if r := g.runIn(s); r.Code != 1 || !strings.Contains(string(r.Stderr), "it took more than 1 s") {
			t.Errorf("a slow hook: code %d, %s", r.Code, r.Stderr)
		}
		g.left()
	})

	t.Run("devices, joins, idmapped mounts", func(t *testing.T) {
		g.t = t
		s := bundle("sh", "-c", "stat -c '%a %u %t,%T %F' /dev/mine; head -c 3 /dev/mine | wc -c; readlink /proc/self/ns/net; cat /proc/self/oom_score_adj; stat -c %u /mnt/f; umask; uname -m; grep policy /proc/self/sched | tr -d ' '")
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/mine", Type: "c", Major: 1, Minor: 5, FileMode: ptr(os.FileMode(0o640)), UID: ptr(uint32(3))}}
		s.Process.OOMScoreAdj = ptr(77)
		s.Process.User.Umask = ptr(uint32(0o27))
		s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch}
		s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
		s.Linux.Namespaces[1].Path = "/proc/1/ns/net"
		g.run("sh", "-c", "mkdir -p /c/data; touch /c/data/f; chown 0 /c/data/f; mkdir -p /c/rootfs/mnt")
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Source: "/c/data", Type: "bind", Options: []string{"bind"},
			UIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 4242, Size: 10}}, GIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 4242, Size: 10}}})
		r := g.runIn(s)
		net := strings.TrimSpace(g.run("readlink", "/proc/1/ns/net"))
		want := "640 3 1,5 character special file\n3\n" + net + "\n77\n4242\n0027\ni686\npolicy:3\n" // SCHED_BATCH
		if r.Code != 0 || string(r.Stdout) != want {
			t.Errorf("code %d\n%s%s\nwant:\n%s", r.Code, r.Stdout, r.Stderr, want)
		}
		// A pid and a user namespace by path: another container's.
		a := bundle("sleep", "1000")
		a.Linux.Namespaces = append(a.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
		a.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 1000}}
		a.Linux.GIDMappings = a.Linux.UIDMappings
		g.put(a)
		g.run("sh", "-c", "powerd-oci run -d -b /c --pid-file /tmp/pid a1 </dev/null >/dev/null 2>&1")
		pid := g.text("/tmp/pid")
		s = bundle("sh", "-c", "readlink /proc/self/ns/user; readlink /proc/self/ns/pid; cat /proc/1/comm; cat /proc/self/uid_map")
		s.Linux.Namespaces[0].Path = "/proc/" + pid + "/ns/pid"
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user", Path: "/proc/" + pid + "/ns/user"})
		r = g.runIn(s)
		want = g.run("readlink", "/proc/"+pid+"/ns/user", "/proc/"+pid+"/ns/pid") + "sleep\n"
		if r.Code != 0 || !strings.HasPrefix(string(r.Stdout), want) || !strings.Contains(string(r.Stdout), "1000") {
			t.Errorf("code %d\n%s%s\nwant:\n%s", r.Code, r.Stdout, r.Stderr, want)
		}
		g.run("powerd-oci", "delete", "--force", "a1")
		g.left()
	})

	t.Run("tmpcopyup, propagation", func(t *testing.T) {
		g.t = t
		g.run("sh", "-ec", `mkdir -p /c/rootfs/up/sub; echo text > /c/rootfs/up/sub/f; chown 3:4 /c/rootfs/up/sub/f; chmod 644 /c/rootfs/up/sub/f; ln -s /etc/shadow /c/rootfs/up/link
mkdir -p /c/shared /c/rootfs/shared; mountpoint -q /c/shared || mount --bind /c/shared /c/shared; mount --make-shared /c/shared`)
		s := bundle("sh", "-c", "stat -c '%a %u %g' /up/sub/f; cat /up/sub/f; readlink /up/link; echo more > /up/more && ls /up | wc -l; awk '$5 == \"/\" { print $7 }' /proc/self/mountinfo | cut -d: -f1; mkdir -p /shared/in; mount -t tmpfs tmpfs /shared/in && touch /shared/in/seen")
		s.Linux.RootfsPropagation = "shared"
		s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_SYS_ADMIN")
		s.Process.Capabilities.Effective, s.Process.Capabilities.Permitted = s.Process.Capabilities.Bounding, s.Process.Capabilities.Bounding
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/up", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup", "mode=755"}},
			specs.Mount{Destination: "/shared", Type: "bind", Source: "/c/shared", Options: []string{"rbind", "rshared"}})
		r := g.runIn(s)
		if want := "644 3 4\ntext\n/etc/shadow\n3\nshared\n"; r.Code != 0 || string(r.Stdout) != want {
			t.Errorf("code %d\n%s%s\nwant:\n%s", r.Code, r.Stdout, r.Stderr, want)
		}
		// What it mounted where it shares with the host, the host has too.
		if got := strings.TrimSpace(g.run("ls", "/c/shared/in")); got != "seen" {
			t.Errorf("on the host there is %q", got)
		}
		g.run("sh", "-ec", "umount /c/shared/in /c/shared; rm -r /c/shared /c/rootfs/shared /c/rootfs/up")
		g.left()
	})

	t.Run("seccomp notify", func(t *testing.T) {
		g.t = t
		agent, err := g.Start(t.Context(), "/tmp/agent", testbed.Command{Argv: []string{"seccomp-agent", "/run/agent"}})
		if err != nil {
			t.Fatal(err)
		}
		g.run("sh", "-c", "until [ -S /run/agent ]; do sleep 0.1; done")
		for _, noNewPrivs := range []bool{true, false} {
			s := bundle("sh", "-c", "mkdir /tmp/d; sleep 1000")
			s.Root.Readonly = false
			s.Process.NoNewPrivileges = noNewPrivs
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/run/agent", ListenerMetadata: "meta",
				Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActNotify}}}
			g.put(s)
			g.run("sh", "-c", "powerd-oci run -d -b /c n1 </dev/null >/tmp/out 2>&1 || { cat /tmp/out; exit 1; }")
			r, err := g.Run(t.Context(), "powerd-oci", "exec", "n1", "mkdir", "/tmp/e")
			if err != nil || !strings.Contains(string(r.Stderr), "'/tmp/e': No space left") {
				t.Errorf("exec: %v, %s%s", err, r.Stdout, r.Stderr)
			}
			g.run("powerd-oci", "delete", "--force", "n1")
			if out := g.text("/tmp/out"); !strings.Contains(out, "'/tmp/d': No space left") {
				t.Errorf("the program: %s", out)
			}
		}
		if got, want := g.text("/tmp/agent"), strings.Repeat("[seccompFd] meta n1 creating true\n[seccompFd] meta n1 running true\n", 2); got+"\n" != want {
			t.Errorf("the agent was told:\n%s\nwant:\n%s", got, want)
		}
		g.Signal(agent, syscall.SIGKILL) //nolint:errcheck // Wait tells
		g.Wait(t.Context(), agent)       //nolint:errcheck // as killed
		g.left()
	})

	t.Run("net devices", func(t *testing.T) {
		g.t = t
		g.run("/c/rootfs/bin/busybox", "ip", "link", "add", "dev0", "type", "dummy")
		g.run("/c/rootfs/bin/busybox", "ip", "addr", "add", "198.51.100.7/24", "dev", "dev0")
		s := bundle("sh", "-c", "ip -o -4 addr show dev net0 | tr -s ' ' | cut -d' ' -f2-4; cat /sys/class/net/net0/flags; ip -o link show lo | grep -o LOWER_UP")
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"dev0": {Name: "net0"}}
		if r := g.runIn(s); r.Code != 0 || string(r.Stdout) != "net0 inet 198.51.100.7/24\n0x83\nLOWER_UP\n" {
			t.Errorf("code %d, %s%s", r.Code, r.Stdout, r.Stderr)
		}
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"nonesuch": {}}
		if r := g.runIn(s); r.Code != 1 || !strings.Contains(string(r.Stderr), "cannot move interface nonesuch into the container: Link not found") {
			t.Errorf("code %d, %s", r.Code, r.Stderr)
		}
		g.left()
	})

	// An ordinary user runs containers, in a user namespace with its own two ids or
	// with what /etc/subuid gives it.
	t.Run("rootless", func(t *testing.T) {
		g.t = t
		g.run("sh", "-ec", "id me >/dev/null 2>&1 || useradd -m -u 1234 me; echo me:300000:65536 > /etc/subuid; cp /etc/subuid /etc/subgid; install -d -o me /run/me")
		for _, ids := range [][]specs.LinuxIDMapping{
			{{ContainerID: 0, HostID: 1234, Size: 1}},
			{{ContainerID: 0, HostID: 1234, Size: 1}, {ContainerID: 1, HostID: 300000, Size: 1000}},
		} {
			s := bundle("sh", "-c", "id -u; cat /proc/self/uid_map | tr -s ' '; hostname; cat /proc/self/setgroups; echo x > /dev/null && echo null; mount -t tmpfs t /tmp && echo mounted")
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
			s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
			s.Linux.Resources = nil
			g.put(s)
			r, err := g.Run(t.Context(), "setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups", "env", "XDG_RUNTIME_DIR=/run/me",
				"powerd-oci", "--cgroup-manager", "none", "run", "-b", "/c", "r1")
			want := "0\n 0 1234 1\nbox\ndeny\nnull\n"
			if len(ids) > 1 {
				want = "0\n 0 1234 1\n 1 300000 1000\nbox\nallow\nnull\n"
			}
			if err != nil || string(r.Stdout) != want || !strings.Contains(string(r.Stderr), "mount: permission denied") {
				t.Errorf("%v, code %d\n%s%s\nwant:\n%s", err, r.Code, r.Stdout, r.Stderr, want)
			}
		}
		if left := g.run("ls", "/run/me/powerd-oci"); left != "" {
			t.Errorf("left: %s", left)
		}
	})

	// The executable of a process in a container is never powerd's, and cannot be
	// written: neither its own, nor through an interpreter that is /proc/self/exe.
	t.Run("CVE-2019-5736", func(t *testing.T) {
		g.t = t
		sum := g.run("sha256sum", "/usr/bin/powerd-oci")
		s := bundle("/tmp/shebang")
		s.Root.Readonly = false
		g.run("sh", "-c", "printf '#!/proc/self/exe\\n' > /c/rootfs/tmp/shebang; chmod 755 /c/rootfs/tmp/shebang; ln -sf /proc/self/exe /c/rootfs/tmp/exe")
		g.runIn(s) // runs the script's program as the script's program: it may do nothing but end
		s.Process.Args = []string{"/tmp/exe"}
		g.runIn(s)
		g.put(bundle("sh", "-c", "sleep 1000"))
		g.run("sh", "-c", "powerd-oci create -b /c --pid-file /tmp/pid x1 </dev/null >/dev/null 2>&1")
		if exe := g.run("readlink", "/proc/"+g.text("/tmp/pid")+"/exe"); !strings.HasPrefix(exe, "/memfd:powerd-init") {
			t.Errorf("the created process is %s", exe)
		}
		if r, err := g.Run(t.Context(), "sh", "-c", "echo overwritten > /proc/"+g.text("/tmp/pid")+"/exe"); err != nil || r.Code == 0 {
			t.Errorf("it can be written to: %v, %+v", err, r)
		}
		g.run("powerd-oci", "delete", "--force", "x1")
		if got := g.run("sha256sum", "/usr/bin/powerd-oci"); got != sum {
			t.Error("powerd has been overwritten")
		}
		g.left()
	})

	// What the container put in the place of its console is not followed.
	t.Run("CVE-2025-52565", func(t *testing.T) {
		g.t = t
		s := bundle("sh", "-c", "echo in")
		s.Process.Terminal = true
		s.Mounts = append(s.Mounts[:1:1], specs.Mount{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666"}})
		g.run("sh", "-c", "mkdir -p /c/rootfs/dev/pts; ln -sf /proc/sys/kernel/core_pattern /c/rootfs/dev/console")
		if r := g.runIn(s); r.Code != 1 || !strings.Contains(string(r.Stderr), "mount /dev/console: too many levels of symbolic links") {
			t.Errorf("code %d, %s%s", r.Code, r.Stdout, r.Stderr)
		}
		g.run("rm", "-rf", "/c/rootfs/dev")
		g.run("mkdir", "/c/rootfs/dev")
		g.left()
	})

	// A masked path is covered by the host's null device, whatever the container has made
	// of its own.
	t.Run("CVE-2025-31133", func(t *testing.T) {
		g.t = t
		before := g.text("/proc/sys/kernel/core_pattern")
		s := bundle("sh", "-c", "echo '|/evil' > /proc/timer_list; echo '|/evil' > /proc/kcore; cat /proc/timer_list /proc/kcore | wc -c; stat -c %t,%T /proc/timer_list")
		s.Mounts = append(s.Mounts[:1:1], s.Mounts[3:]...) // the image's own /dev
		g.run("sh", "-ec", "rm -rf /c/rootfs/dev; mkdir /c/rootfs/dev; ln -s /proc/sys/kernel/core_pattern /c/rootfs/dev/null; ln -s /dev/null /c/rootfs/dev/x")
		if r := g.runIn(s); r.Code != 0 || string(r.Stdout) != "0\n1,3\n" {
			t.Errorf("code %d, %s%s", r.Code, r.Stdout, r.Stderr)
		}
		if got := g.text("/proc/sys/kernel/core_pattern"); got != before {
			t.Errorf("core_pattern is now %q", got)
		}
		g.run("sh", "-ec", "rm -rf /c/rootfs/dev; mkdir /c/rootfs/dev")
		g.left()
	})

	// Where the container has put something else in the place of /proc, neither labels
	// nor sysctls are written to that (CVE-2019-16884 was the first of the kind).
	t.Run("CVE-2025-52881, CVE-2019-16884", func(t *testing.T) {
		g.t = t
		g.run("sh", "-ec", `mkdir -p /c/fake/self/attr/apparmor /c/fake/thread-self/attr/apparmor /c/fake/sys/net/ipv4 /c/rootfs/real
touch /c/fake/self/attr/apparmor/exec /c/fake/thread-self/attr/apparmor/exec /c/fake/thread-self/attr/exec /c/fake/self/attr/exec
ln -sf /real/sysrq-trigger /c/fake/sys/net/ipv4/ip_default_ttl
echo 'profile confined flags=(attach_disconnected) { file, deny /etc/denied w, }' > /c/profile; apparmor_parser -r /c/profile`)
		s := bundle("sh", "-c", "cat /real/self/attr/current; cat /real/sys/net/ipv4/ip_default_ttl; cat /proc/thread-self/attr/apparmor/exec /proc/self/attr/apparmor/exec | wc -c")
		s.Mounts[0] = specs.Mount{Destination: "/proc", Type: "bind", Source: "/c/fake", Options: []string{"bind"}}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/real", Type: "proc", Source: "proc"})
		s.Process.ApparmorProfile = "confined"
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_default_ttl": "77"}
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
		if r := g.runIn(s); r.Code != 0 || string(r.Stdout) != "confined (enforce)\n77\n0\n" {
			t.Errorf("code %d, %s%s", r.Code, r.Stdout, r.Stderr)
		}
		// exec too.
		s.Process.Args = []string{"sleep", "1000"}
		g.put(s)
		g.run("sh", "-c", "powerd-oci run -d -b /c p1 </dev/null >/dev/null 2>&1")
		if got := g.run("powerd-oci", "exec", "p1", "cat", "/real/self/attr/current"); got != "confined (enforce)\n" {
			t.Errorf("exec: %s", got)
		}
		g.run("powerd-oci", "delete", "--force", "p1")
		g.run("sh", "-ec", "apparmor_parser -R /c/profile; rm -r /c/fake; rmdir /c/rootfs/real")
		g.left()
	})

	// Mounts onto links of the image's go where the link points inside the root.
	t.Run("CVE-2021-30465", func(t *testing.T) {
		g.t = t
		g.run("sh", "-ec", "mkdir -p /c/escape; mkdir -p /c/rootfs/c/escape; ln -sfn ../../../../../../c/escape /c/rootfs/tmp/link; ln -sfn /proc/self/cwd /c/rootfs/tmp/magic")
		s := bundle("sh", "-c", "stat -f -c %T /c/escape; grep -c ' /c/escape ' /proc/self/mountinfo")
		s.Root.Readonly = false
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp/link", Type: "tmpfs", Source: "tmpfs"})
		if r := g.runIn(s); r.Code != 0 || string(r.Stdout) != "tmpfs\n1\n" {
			t.Errorf("code %d, %s%s", r.Code, r.Stdout, r.Stderr)
		}
		s.Mounts[len(s.Mounts)-1].Destination = "/tmp/magic/x"
		if r := g.runIn(s); r.Code != 1 || !strings.Contains(string(r.Stderr), "too many levels of symbolic links") {
			t.Errorf("through a magic link: code %d, %s%s", r.Code, r.Stdout, r.Stderr)
		}
		g.run("sh", "-ec", "rm /c/rootfs/tmp/link /c/rootfs/tmp/magic; rm -r /c/rootfs/c")
		g.left()
	})

	t.Run("refused", func(t *testing.T) {
		g.t = t
		for why, change := range map[string]func(*specs.Spec){
			"cannot run \"nonesuch\": no such file":           func(s *specs.Spec) { s.Process.Args[0] = "nonesuch" },
			"linux.seccomp.defaultAction: there is no action": func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{} },
			"is there already":                                func(s *specs.Spec) { s.Linux.CgroupsPath = "/system.slice" },
			"/proc/self/fd/7":                                 func(s *specs.Spec) { s.Process.Cwd = "/proc/self/fd/7" }, // CVE-2024-21626
			"mount /nonesuch": func(s *specs.Spec) {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/nonesuch", Type: "nonesuchfs"})
			},
		} {
			s := bundle("true")
			change(s)
			g.put(s)
			r, err := g.Run(t.Context(), "powerd-oci", "run", "-b", "/c", "c3")
			if err != nil || !strings.Contains(string(r.Stderr), why) {
				t.Errorf("%s: %v, %s", why, err, r.Stderr)
			}
			g.left()
		}
	})

	t.Run("many, and killed in between", func(t *testing.T) {
		g.t = t
		g.put(bundle("true"))
		g.run("sh", "-ec", `for i in $(seq 200); do powerd-oci run -b /c m$i </dev/null & [ $((i % 20)) = 0 ] && wait; done; wait`)
		g.left()
		for i := range 50 {
			g.run("sh", "-c", fmt.Sprintf("powerd-oci run -b /c k%d </dev/null >/dev/null 2>&1 & p=$!; sleep 0.%03d; kill -9 $p; wait; powerd-oci delete --force k%d; true", i, 4*i, i))
		}
		g.left()
	})
}

// Hostile bundles are refused in one line that names the field.
func TestOCIRefusals(t *testing.T) {
	dir := t.TempDir()
	for config, why := range map[string]string{
		`{`:                       "cannot use config.json: unexpected end of JSON input",
		`{"ociVersion": 7}`:       "cannot use config.json: ociVersion: it is a number",
		`{"ociVersion": "2.0.0"}`: "cannot use config.json: ociVersion: want 1.0.0 to 1.3.x, not \"2.0.0\"",
		`{"ociVersion": "1.0.0"}`: "cannot use config.json: root.path: it is required",
		`{"ociVersion": "1.0.0", "root": {"path": "."}, "process": {"args": ["x"], "cwd": "/"}, "linux": {"namespaces": [{"type": "mount"}, {"type": "network", "path": "/nonesuch"}]}}`: "cannot use config.json: linux.namespaces[1].path: open /nonesuch: no such file or directory",
	} {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
		var out, errs strings.Builder
		if code := runOCI([]string{"--root", filepath.Join(dir, "state"), "--cgroup-manager", "none", "create", "-b", dir, "x"}, nil, &out, &errs); code != 1 || errs.String() != "powerd: "+why+"\n" {
			t.Errorf("%s: code %d, %q, want %q", config, code, errs.String(), why)
		}
	}
}

// What engines read of a runtime that has nothing to do.
func TestOCIAnswers(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log.json")
	for _, tt := range []struct {
		args, out, logged string
		code              int
	}{
		{args: "--version", out: "powerd-oci version " + version() + "\ncommit: " + version() + "\nspec: 1.3.0\n"},
		{args: "list --format json", out: "null\n"},
		{args: "delete --force x"},
		{args: "delete x", logged: "cannot find container x: container does not exist", code: 1},
		{args: "kill --all x 9", logged: "cannot find container x: container does not exist", code: 1},
		{args: "checkpoint --image-path /x --leave-running x", logged: "cannot checkpoint a container: powerd-oci does not use CRIU", code: 1},
		{args: "restore --image-path /x --bundle /b -no-subreaper x", logged: "cannot restore a container: powerd-oci does not use CRIU", code: 1},
		{args: "update --memory 1q x", logged: "cannot use --memory \"1q\": it is no number of bytes", code: 2},
	} {
		os.Remove(log)
		var out, errs strings.Builder
		code := runOCI(append([]string{"--root", filepath.Join(dir, "state"), "--log", log, "--log-format", "json"}, strings.Fields(tt.args)...), nil, &out, &errs)
		if code != tt.code || out.String() != tt.out {
			t.Errorf("%s: code %d, %q, %q, want %d, %q", tt.args, code, out.String(), errs.String(), tt.code, tt.out)
		}
		var line struct{ Level, Msg string }
		if data, err := os.ReadFile(log); tt.logged == "" && err == nil {
			t.Errorf("%s: logged %s", tt.args, data)
		} else if tt.logged != "" {
			if err := json.Unmarshal(data, &line); err != nil || line.Level != "error" || !strings.HasPrefix(line.Msg, "powerd: "+tt.logged) {
				t.Errorf("%s: %v, logged %s, want %s", tt.args, err, data, tt.logged)
			}
		}
	}
}

func TestOnlyPids(t *testing.T) {
	const table = "UID          PID    PPID CMD\nroot           1       0 /sbin/init\nroot          12       1 sh -c 7\nroot           7       1 sleep\n\n"
	for _, tt := range []struct {
		pids []int
		want string
	}{
		{nil, "UID          PID    PPID CMD\n"},
		{[]int{12, 99}, "UID          PID    PPID CMD\nroot          12       1 sh -c 7\n"},
	} {
		if got, err := onlyPids(table, tt.pids); err != nil || got != tt.want {
			t.Errorf("%v: %q, %v", tt.pids, got, err)
		}
	}
	if got, err := onlyPids("CMD\nsh\n", nil); err == nil {
		t.Errorf("no column PID: %q", got)
	}
}
