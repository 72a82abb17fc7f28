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

	"github.com/powerd/powerd/internal/daemon"
	"github.com/powerd/powerd/internal/testbed"
)

const runPolicy = `interval: 250ms
classes:
  - {name: latency, cgroups: ["powerd/latency-*"], objective: latency, priority: 10}
  - {name: batch, cgroups: ["powerd/*"], objective: energy, cpu_limit: 0.4}
`

// Containers for people, on a real kernel: a Debian root that looks like a machine of
// its own from inside, and is a process from outside.
func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a node")
	}
	policy := filepath.Join(t.TempDir(), "powerd.yaml")
	if err := os.WriteFile(policy, []byte(runPolicy), 0o644); err != nil {
		t.Fatal(err)
	}
	g := guestNode{testbed.Start(t, testbed.Config{CoresPerSocket: 4, Curve: curve(), Root: testbed.Debian,
		Packages: containerPackages, Memory: 1024,
		Modules: containerModules,
		Files:   map[string]string{"/usr/bin/powerd": staticBinary(t), "/etc/powerd/powerd.yaml": policy}}), t}
	g.run("systemctl", "is-system-running", "--wait")
	// The node's own files make the Debian root.
	g.run("sh", "-ec", "mkdir /deb; cp -al /usr /etc /deb/; for l in bin sbin lib lib64; do ln -s usr/$l /deb/$l; done; mkdir -p /deb/var/lib/dpkg /deb/tmp /deb/root /deb/proc /deb/sys /deb/dev; rm -rf /deb/usr/bin/powerd")
	ps := func() (list []struct {
		Name     string
		Status   string
		Pid      int
		Address  string
		ExitCode *int `json:"exit_code"`
	}) {
		t.Helper()
		if err := json.Unmarshal([]byte(g.run("powerd", "ps", "--all", "-o", "json")), &list); err != nil {
			t.Fatal(err)
		}
		return list
	}
	left := func(t *testing.T) {
		t.Helper()
		out := g.run("sh", "-c", `ls /var/lib/powerd/containers /run/powerd/containers /var/lib/powerd/images/roots; ls -d /sys/fs/cgroup/powerd/*/; ls /run/powerd/network | grep -v lock
ls /sys/class/net | grep ^pd; grep -E 'rootfs|overlay' /proc/self/mounts; ps -e -o comm= | grep -E "^powerd-(init|monit)"; true`)
		for line := range strings.Lines(out) {
			if !strings.HasPrefix(line, "/") || strings.Contains(line, "cgroup/powerd/") {
				if strings.TrimSpace(line) != "" {
					t.Errorf("left behind: %s", line)
				}
			}
		}
	}

	t.Run("a Debian of its own", func(t *testing.T) {
		g.t = t
		r, err := g.Run(t.Context(), "powerd", "run", "--rm", "--name", "deb", "/deb", "bash", "-c", `
echo "host $(hostname) pid $$ uid $(id -u)"
apt-get --version | head -1 | cut -d' ' -f1
ls /proc | grep -c '^[0-9]'
ls -A /proc/sysvipc | wc -l; head -c0 /dev/mqueue/x 2>/dev/null; ls /dev/mqueue | wc -l
insmod /nonesuch.ko 2>/dev/null || echo no module
cat /proc/keys | wc -c
for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/sys/kernel/core_pattern /sys/power/state /sys/fs/cgroup/cgroup.procs; do (echo x > $f) 2>/dev/null && echo "wrote $f"; done
mkdir -p /tmp/j && chroot /tmp/j /nonesuch 2>/dev/null; cd /; for i in 1 2 3 4 5 6 7 8; do cd ..; done; ls -d deb 2>/dev/null
mount -t tmpfs t /mnt 2>/dev/null && echo mounted
reboot -f 2>/dev/null; date -s 2000-01-01 2>/dev/null >/dev/null && echo set the clock; mknod /tmp/sda b 8 0 && head -c1 /tmp/sda 2>/dev/null && echo read a disk
nproc; cat /sys/fs/cgroup/pids.max; echo done`)
		want := "host deb pid 1 uid 0\napt\n3\n3\n0\nno module\n0\n4\n2048\ndone\n"
		if err != nil || r.Code != 0 || string(r.Stdout) != want {
			t.Errorf("%v, code %d\n%s%s\nwant:\n%s", err, r.Code, r.Stdout, r.Stderr, want)
		}
		left(t)
	})

	t.Run("root inside is 1000 outside", func(t *testing.T) {
		g.t = t
		g.run("mkdir", "-p", "/small/bin")
		g.run("sh", "-ec", "cp /usr/bin/bash /usr/bin/sleep /usr/bin/id /usr/bin/cat /usr/bin/touch /usr/bin/ls /small/bin/; for l in $(ldd /usr/bin/bash /usr/bin/id /usr/bin/ls | grep -o '/[^ ]*lib[^ ]*' | sort -u); do mkdir -p /small$(dirname $l); cp $l /small$l; done; ln -sfn bash /small/bin/sh")
		g.run("powerd", "run", "-d", "--init", "--name", "u", "--userns", "1000", "/small", "bash", "-c", "id -u; touch /made; ls -ln /made | { read mode links uid rest; echo $uid; }; sleep 1000 & wait")
		list := ps()
		if len(list) != 1 || list[0].Status != "running" {
			t.Fatalf("ps: %+v", list)
		}
		if out := g.run("ps", "-o", "uid=,comm=", "-p", fmt.Sprint(list[0].Pid)); strings.Join(strings.Fields(out), " ") != "1000 powerd-init" {
			t.Errorf("outside it is %q", out)
		}
		if out := g.run("ps", "-o", "uid=", "-C", "sleep"); strings.TrimSpace(out) != "1000" {
			t.Errorf("outside its sleep is of %q", out)
		}
		if out := g.run("powerd", "logs", "u"); out != "0\n0\n" {
			t.Errorf("logs: %q", out)
		}
		if out := g.run("powerd", "exec", "u", "id", "-u"); out != "0\n" {
			t.Errorf("exec: %q", out)
		}
		g.run("powerd", "freeze", "u")
		if list := ps(); list[0].Status != "paused" {
			t.Errorf("frozen: %+v", list)
		}
		g.run("powerd", "thaw", "u")
		var use []usageRow
		if err := json.Unmarshal([]byte(g.run("powerd", "stats", "--once", "-o", "json")), &use); err != nil || len(use) != 1 || use[0].Memory == 0 || use[0].Pids < 2 {
			t.Errorf("stats: %+v, %v", use, err)
		}
		g.run("powerd", "stop", "u")
		if list := ps(); list[0].Status != "stopped" || list[0].ExitCode == nil || *list[0].ExitCode != 128+15 {
			t.Errorf("stopped: %+v", list)
		}
		g.run("powerd", "rm", "u")
		left(t)
	})

	t.Run("detached with a terminal", func(t *testing.T) {
		g.t = t
		// From a terminal of 30 rows; the shell goes on, for nobody has closed its input.
		g.run("script", "-qec", "stty rows 30 cols 90; powerd run -dt --name shell /deb bash", "/dev/null")
		// It closes its terminal for a while, as an init does, and has last words.
		g.run("powerd", "run", "-dt", "--name", "t", "/deb", "bash", "-c",
			`tty; until [ -e /go ]; do sleep 0.1; done; exec >/dev/null 2>&1 </dev/null; sleep 0.5; echo again >/dev/console; sleep 0.5; seq 3000 >/dev/console; exit 7`)
		if out := g.run("sh", "-c", `for i in $(seq 100); do [ -n "$(powerd logs t)" ] && break; sleep 0.1; done; powerd logs t`); out != "/dev/pts/0\r\n" {
			t.Errorf("its log: %q", out)
		}
		if out := g.run("script", "-qec", "powerd exec -it t tty", "/dev/null"); !strings.HasSuffix(out, "/dev/pts/1\r\n") { // after what script shows of an input that ends
			t.Errorf("exec's terminal: %q", out)
		}
		g.run("powerd", "exec", "t", "touch", "/go")
		want := "/dev/pts/0\r\nagain\r\n"
		for i := range 3000 {
			want += fmt.Sprintf("%d\r\n", i+1)
		}
		if out := g.run("powerd", "logs", "--follow", "t"); out != want {
			t.Errorf("its whole log has %d bytes, want %d, and begins %.100q", len(out), len(want), out)
		}
		g.run("sh", "-c", `for i in $(seq 100); do [ -z "$(powerd ps | grep ' t ')" ] && break; sleep 0.1; done`)
		for _, c := range ps() {
			switch {
			case c.Name == "t" && (c.ExitCode == nil || *c.ExitCode != 7):
				t.Errorf("%+v", c)
			case c.Name == "shell" && c.Status != "running":
				t.Errorf("%+v", c)
			case c.Name == "shell":
				if out := g.run("sh", "-c", fmt.Sprintf("stty size < /proc/%d/root/dev/pts/0", c.Pid)); out != "30 90\n" {
					t.Errorf("its terminal's size: %q", out)
				}
			}
		}
		g.run("powerd", "rm", "--force", "shell", "t")
		left(t)
	})

	t.Run("network", func(t *testing.T) {
		g.t = t
		g.run("sh", "-ec", "cp /usr/bin/perl /small/bin/; cp -r /usr/lib/x86_64-linux-gnu/perl-base /small/usr/lib/x86_64-linux-gnu/ 2>/dev/null || { mkdir -p /small/usr/lib/x86_64-linux-gnu; cp -r /usr/lib/x86_64-linux-gnu/perl-base /small/usr/lib/x86_64-linux-gnu/; }; for l in $(ldd /usr/bin/perl | grep -o '/[^ ]*lib[^ ]*'); do mkdir -p /small$(dirname $l); cp $l /small$l; done")
		const server = `use IO::Socket::INET; my $l = IO::Socket::INET->new(LocalPort => 80, Listen => 5, ReuseAddr => 1) or die $!; while (my $c = $l->accept) { print $c "hello\n"; close $c }`
		const client = `use IO::Socket::INET; my $c = IO::Socket::INET->new(PeerAddr => "%s", Timeout => 3) or die $!; print <$c>`
		g.run("powerd", "run", "-d", "--name", "web", "-p", "127.0.0.1:8080:80", "/small", "perl", "-e", server)
		if list := ps(); len(list) != 1 || list[0].Address != "10.188.0.2" {
			t.Errorf("ps: %+v", list)
		}
		time.Sleep(time.Second) // until it listens
		if out := g.run("perl", "-e", fmt.Sprintf(client, "127.0.0.1:8080")); out != "hello\n" {
			t.Errorf("published: %q", out)
		}
		if out := g.run("powerd", "run", "--rm", "/small", "perl", "-e", fmt.Sprintf(client, "10.188.0.2:80")); out != "hello\n" {
			t.Errorf("a neighbour: %q", out)
		}
		g.run("powerd", "rm", "--force", "web")
		left(t)
	})

	// It never runs where it should not: the daemon has placed its cgroup before its
	// first process.
	t.Run("placed at creation", func(t *testing.T) {
		g.t = t
		pid, err := g.Start(t.Context(), "/tmp/daemon", testbed.Command{Argv: []string{"powerd", "daemon"}})
		if err != nil {
			t.Fatal(err)
		}
		g.run("powerd", "run", "-d", "--name", "busy", "/small", "bash", "-c", "while :; do :; done")
		g.status(func(s *daemon.Snapshot) bool {
			return len(s.Containers) == 1 && s.Containers[0].Class == "batch" && s.Tick > 5 && s.Containers[0].CPUs != ""
		})
		g.run("powerd", "run", "-d", "--name", "x1", "--class", "latency", "--slowdown", "1.5", "/small", "bash", "-c", "cat /proc/self/status | while read k v; do [ $k = Cpus_allowed_list: ] && echo $v; done; sleep 1000")
		first := strings.TrimSpace(g.run("sh", "-c", `for i in $(seq 50); do [ -n "$(powerd logs x1)" ] && break; sleep 0.2; done; powerd logs x1`))
		s := g.status(func(s *daemon.Snapshot) bool {
			return len(s.Containers) == 2 && s.Plan != nil && len(s.Plan.Assignments) == 2
		})
		found := false
		for _, a := range s.Plan.Assignments {
			if a.ID == "powerd/x1" {
				found = true
				if a.Class != "latency, slowdown 1.5" || a.CPUs == nil || first == "" || first == "0-3" {
					t.Errorf("first on cpus %q, the plan: %+v", first, a)
				}
			}
		}
		if !found {
			t.Errorf("no assignment: %+v", s.Plan.Assignments)
		}
		g.run("powerd", "rm", "--force", "x1", "busy")
		g.Signal(pid, syscall.SIGTERM) //nolint:errcheck // Wait tells
		if code, err := g.Wait(t.Context(), pid); err != nil || code != 0 {
			t.Errorf("the daemon: code %d, %v\n%s", code, err, g.text("/tmp/daemon"))
		}
		left(t)
	})

	// Whenever powerd dies, rm --force removes all.
	t.Run("killed in between", func(t *testing.T) {
		g.t = t
		for i := range 20 {
			g.run("sh", "-c", fmt.Sprintf("powerd run -d --name k%d -p 9000:80 /small sleep 1000 >/dev/null 2>&1 & p=$!; sleep 0.%03d; kill -9 $p; wait; powerd rm --force k%d >/dev/null 2>&1; sleep 0.1; powerd rm --force k%d >/dev/null 2>&1; true", i, 12*i, i, i))
		}
		time.Sleep(time.Second)
		for _, c := range ps() { // whose monitor was about to start it
			g.run("powerd", "rm", "--force", c.Name)
		}
		left(t)
	})
}
