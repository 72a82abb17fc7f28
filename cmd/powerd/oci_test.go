package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/powerd/powerd/internal/testbed"
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
		Files: map[string]string{"/usr/bin/powerd": binary, "/usr/bin/powerd-oci": binary, "/c/rootfs/bin/busybox": busybox}}), t}
	g.run("systemctl", "is-system-running", "--wait")
	g.run("sh", "-ec", "cd /c/rootfs; chmod 755 bin/busybox; for a in $(bin/busybox --list); do [ $a = busybox ] || ln -s busybox bin/$a; done; chmod 755 bin/busybox; mkdir -p etc tmp; chmod 1777 tmp; ln -s /etc/shadow etc/link; ln -s ../../../../.. tmp/up")

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
		if r, err := g.Run(t.Context(), "powerd-oci", "state", "c2"); err != nil || r.Code != 1 || !strings.Contains(string(r.Stderr), "there is no such container") {
			t.Errorf("deleted: %v %s", err, r.Stderr)
		}
	})

	t.Run("refused", func(t *testing.T) {
		g.t = t
		for why, change := range map[string]func(*specs.Spec){
			"cannot run \"nonesuch\": no such file": func(s *specs.Spec) { s.Process.Args[0] = "nonesuch" },
			"linux.seccomp: not supported yet":      func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{} },
			"is there already":                      func(s *specs.Spec) { s.Linux.CgroupsPath = "/system.slice" },
			"enter process.cwd":                     func(s *specs.Spec) { s.Process.Cwd = "/proc/self/fd/7" }, // CVE-2024-21626
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
		g.run("sh", "-ec", `for i in $(seq 40); do powerd-oci run -b /c m$i </dev/null & [ $((i % 8)) = 0 ] && wait; done; wait`)
		g.left()
		for i := range 20 {
			g.run("sh", "-c", fmt.Sprintf("powerd-oci run -b /c k%d </dev/null >/dev/null 2>&1 & p=$!; sleep 0.%02d; kill -9 $p; wait; powerd-oci delete --force k%d; true", i, 3*i, i))
		}
		g.left()
	})
}

// Hostile bundles are refused in one line that names the field.
func TestOCIRefusals(t *testing.T) {
	dir := t.TempDir()
	for config, why := range map[string]string{
		`{`:                       "cannot use config.json: unexpected EOF",
		`{"ociVersion": 7}`:       "cannot use config.json: ociVersion: it is a number",
		`{"ociVersion": "2.0.0"}`: "cannot use config.json: ociVersion: want 1.0.0 to 1.3.x, not \"2.0.0\"",
		`{"ociVersion": "1.0.0"}`: "cannot use config.json: root.path: it is required",
	} {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
		var out, errs strings.Builder
		if code := runOCI([]string{"--root", filepath.Join(dir, "state"), "create", "-b", dir, "x"}, nil, &out, &errs); code != 1 || errs.String() != "powerd: "+why+"\n" {
			t.Errorf("%s: code %d, %q, want %q", config, code, errs.String(), why)
		}
	}
}
