package conformance

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/powerd/powerd/internal/testbed"
)

// sh runs a script in the node, which has to end well and to print what is wanted; * is
// anything.
func sh(t *testing.T, n *testbed.Node, script, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // engines may wait for ever
	defer cancel()
	r, err := n.Run(ctx, "sh", "-c", script)
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	if got := strings.TrimSpace(string(r.Stdout)); r.Code != 0 || want != "*" && got != want {
		t.Errorf("%s\ncode %d, %q, want %q\n%s", script, r.Code, got, want, r.Stderr)
	}
}

// podman does its work with powerd-oci, as with crun.
func TestPodman(t *testing.T) {
	n := node(t)
	sh(t, n, `cd /box; chmod 755 bin/busybox; for a in sh ls cat id sleep echo hostname grep mkdir touch stat ps kill true false tty; do ln -s busybox bin/$a; done
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
				sh(t, n, step[0], step[1])
			}
		})
	}
}

// archive is an image as docker save writes it: busybox, and two users.
func archive(t *testing.T) []byte {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	put := func(h tar.Header, data []byte) {
		h.Size, h.Mode = int64(len(data)), 0o755
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "etc", "tmp", "var", "data", "root"} {
		put(tar.Header{Name: dir + "/", Typeflag: tar.TypeDir}, nil)
	}
	put(tar.Header{Name: "bin/busybox"}, busybox)
	put(tar.Header{Name: "etc/passwd"}, []byte("root:x:0:0::/root:/bin/sh\nweb:x:12:34::/srv/web:/bin/sh\n"))
	for _, name := range []string{"sh", "cat", "id", "sleep", "echo", "hostname", "grep", "touch", "stat", "ps", "kill", "true", "false", "tty", "wc", "stty"} {
		put(tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin"}}})
	if err == nil {
		img, err = mutate.AppendLayers(img, layer)
	}
	var out bytes.Buffer
	if err == nil {
		err = tarball.Write(name.MustParseReference("example.org/box:1"), img, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// containerd does its work with powerd-oci under its shim, as with runc.
func TestContainerd(t *testing.T) {
	n := node(t)
	if err := n.Put("/box.tar", archive(t), 0o644); err != nil {
		t.Fatal(err)
	}
	const (
		run  = "ctr run --runc-binary /usr/bin/powerd-oci "
		oci  = "powerd-oci --root /run/containerd/runc/default "
		box  = " example.org/box:1 "
		tty  = "script -qec '%s' /dev/null | grep -o -e '/dev/pts/[0-9]' -e '^[0-9]'" // what else there is, script and ctr say
		wait = "for i in $(seq 100); do %s && break; sleep 0.1; done; "
	)
	status := func(id string) string { return "ctr task ls | grep '^" + id + " ' | tr -s ' ' | cut -d' ' -f3" }
	for _, step := range [][2]string{
		{"ctr image import /box.tar >/dev/null && ctr image ls -q", "example.org/box:1"},
		// In the foreground.
		{run + "--rm" + box + "f1 sh -c 'echo hi; echo err >&2; exit 0' 2>/dev/null", "hi"},
		{run + "--rm" + box + "f1 sh -c 'exit 7'; echo $?", "7"},
		{run + "--rm" + box + "f1 /nonesuch 2>&1 | grep -o 'cannot run \"/nonesuch\": no such file or directory' | head -1", `cannot run "/nonesuch": no such file or directory`},
		// ctr closes the input only of a task that it has by then.
		{"(echo in; " + fmt.Sprintf(wait, "ctr task ls | grep -q 'f1 .*RUNNING'") + "sleep 0.5) | " + run + "--rm" + box + "f1 cat", "in"},
		{run + "--rm" + box + "f1 sh -c 'echo $HOME $$'", "/root 1"},
		{run + "--rm --read-only --cwd /var --env A=b" + box + "f1 sh -c 'pwd; echo $A; touch /x 2>/dev/null || echo no' | tr '\n' ' '", "/var b no"},
		{run + "--rm --mount type=bind,src=/etc,dst=/data,options=rbind:ro" + box + "f1 cat /data/hostname", "testbed"},
		{run + "--rm --seccomp" + box + "f1 grep Seccomp: /proc/self/status | tr -d '\t'", "Seccomp:2"},
		{run + "--rm --privileged" + box + "f1 grep CapEff /proc/self/status | tr -d '\t'", "CapEff:000001ffffffffff"},
		{run + "--rm --net-host" + box + "f1 hostname", "testbed"},
		{fmt.Sprintf(tty, run+"--rm -t"+box+`f1 sh -c "tty; exit 5"; echo $?`), "/dev/pts/0\n5"},
		// In the background.
		{run + "-d --log-uri file:///tmp/d1.log --memory-limit 67108864 --cpus 0.5" + box + `d1 sh -c 'trap "exit 3" TERM; echo started; while :; do sleep 0.1; done' && ` + status("d1"), "RUNNING"},
		{fmt.Sprintf(wait, "grep -s started /tmp/d1.log"), "started"},
		{"cat /sys/fs/cgroup/default/d1/memory.max /sys/fs/cgroup/default/d1/cpu.max | tr '\n' ' '", "67108864 50000 100000"},
		{"ctr task exec --exec-id e d1 sh -c 'echo in; exit 9'; echo $?", "in\n9"},
		{"(echo piped; sleep 2) | ctr task exec --exec-id e d1 cat", "piped"},
		{"ctr task exec --exec-id e --user web d1 sh -c 'id -u; echo $HOME' | tr '\n' ' '", "12 /srv/web"},
		{"ctr task exec --exec-id e d1 /nonesuch 2>&1 | grep -o 'cannot run \"/nonesuch\": no such file or directory' | head -1", `cannot run "/nonesuch": no such file or directory`},
		{fmt.Sprintf(tty, `ctr task exec -t --exec-id e d1 sh -c "tty; exit 4"; echo $?`), "/dev/pts/0\n4"},
		{"ctr task exec -d --exec-id left d1 sleep 1000; ctr task ps d1 | grep -c 'left'", "1"},
		{"ctr task metrics --format json d1 | tr -d ' \n' | grep -c '\"pids\":{\"current\":[234]'", "1"},
		{oci + "ps d1 -o pid,args | grep -c 'sleep 1000'", "1"},
		{oci + `ps --format json d1 | grep -c '^\[[0-9,]*\]$'`, "1"},
		{`echo '{"memory":{"limit":99000000},"pids":{"limit":55}}' | ` + oci + "update --resources - d1; cat /sys/fs/cgroup/default/d1/memory.max /sys/fs/cgroup/default/d1/pids.max | tr '\n' ' '", fmt.Sprint(99000000/4096*4096) + " 55"},
		{"ctr task pause d1 && " + status("d1"), "PAUSED"},
		{"ctr task resume d1 && " + status("d1"), "RUNNING"},
		{"ctr task checkpoint d1 2>&1 | grep -o 'cannot checkpoint a container: powerd-oci does not use CRIU' | head -1; " + status("d1"), "cannot checkpoint a container: powerd-oci does not use CRIU\nRUNNING"},
		{"ctr task kill -s SIGTERM d1; " + fmt.Sprintf(wait, `[ "$(`+status("d1")+`)" = STOPPED ]`) + "ctr task kill d1 2>&1 | grep -o 'not found'; ctr task delete d1 2>&1 | grep -o 'code 3'; ctr container delete d1", "not found\ncode 3"},
		{run + "-d" + box + "d2 sh -c 'sleep 1000 & sleep 1000' && ctr task kill -a -s SIGKILL d2 && " + fmt.Sprintf(wait, `[ "$(`+status("d2")+`)" = STOPPED ]`) + "ctr task delete d2 2>&1 | grep -o 'code 137'; ctr container delete d2", "code 137"},
		{run + "-d --runc-systemd-cgroup --cgroup system.slice:ctr:s1" + box + "s1 sleep 1000 && systemctl is-active ctr-s1.scope; ctr task kill -s SIGKILL s1; " +
			fmt.Sprintf(wait, `[ "$(`+status("s1")+`)" = STOPPED ]`) + "ctr task delete s1 2>/dev/null; ctr container delete s1", "active"},
		// Many at once.
		{"for i in $(seq 20); do " + run + "--rm" + box + "p$i echo $i & done | sort -n | tr '\n' ' '", "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20"},
		// The shim is killed: containerd starts another that cleans up.
		{run + "-d" + box + "k1 sleep 1000 && pid=$(ctr task ls | grep '^k1 ' | tr -s ' ' | cut -d' ' -f2) && kill -9 $(ps -o ppid= -p $pid) && " +
			fmt.Sprintf(wait, `[ -z "$(ctr task ls -q)" ]`) + "ctr task ls -q; ctr container delete k1; ps -o comm= -p $pid; true", ""},
		// Nothing remains.
		{"ls /run/containerd/runc/default /run/containerd/io.containerd.runtime.v2.task/default; ls -d /sys/fs/cgroup/default/*/ 2>/dev/null; grep -E 'rootfs|overlay' /proc/mounts; ps -e -o comm= | grep -E 'shim|powerd-(oci|init)'; ctr container ls -q; systemctl list-units --no-legend 'ctr-*'; true",
			"/run/containerd/io.containerd.runtime.v2.task/default:\n\n/run/containerd/runc/default:"},
	} {
		sh(t, n, step[0], step[1])
	}
	t.Run("as runc", func(t *testing.T) { asRunc(t, n) })
}

// answers are what engines read of a runtime.
var answers = []string{"state c1", "list --format json", "events --stats c1", "ps --format json c1", "features"}

// notTold is what runc tells, by how its path begins, and powerd-oci does not.
var notTold = map[string]string{
	".data.cpuset.cpu_": "cgroup v1 had it", ".data.cpuset.mem": "cgroup v1 had it", ".data.cpuset.sched_": "cgroup v1 had it",
	".data.memory.kernel": "cgroup v1 had it", ".data.network_interfaces": "runc never knows it",
	".annotations.org.opencontainers.runc": "runc's own version", ".annotations.io.github.seccomp": "powerd-oci has no libseccomp",
}

// asRunc holds what powerd-oci tells engines against what runc does: all of it, under the
// same names.
func asRunc(t *testing.T, n *testbed.Node) {
	if err := n.Put("/box/config.json", startBundle(t, "sleep", "1000"), 0o644); err != nil {
		t.Fatal(err)
	}
	sh(t, n, "cd /box; mkdir -p rootfs/bin rootfs/proc rootfs/dev rootfs/sys; cp bin/busybox rootfs/bin; chmod 755 rootfs/bin/busybox; ln -s busybox rootfs/bin/sleep", "")
	told := map[string]map[string]map[string]bool{}
	for _, rt := range []string{"runc", "powerd-oci"} {
		told[rt] = map[string]map[string]bool{}
		root := rt + " --root /tmp/" + rt + " "
		sh(t, n, "sync; echo 3 > /proc/sys/vm/drop_caches", "") // so that both read a disk
		sh(t, n, root+"run -d -b /box c1 </dev/null >/dev/null 2>&1", "")
		for _, question := range answers {
			r, err := n.Run(t.Context(), "sh", "-c", root+question)
			var v any
			if err == nil {
				err = json.Unmarshal(r.Stdout, &v)
			}
			if err != nil {
				t.Fatalf("%s%s: %v: %s%s", root, question, err, r.Stdout, r.Stderr)
			}
			told[rt][question] = map[string]bool{}
			paths(v, "", told[rt][question])
		}
		// Errors are in the log, a line each.
		sh(t, n, "rm -f /tmp/log; "+root+"--log /tmp/log --log-format json state nonesuch 2>/dev/null; echo $?; grep -c '\"level\":\"error\",\"msg\":\".*container does not exist\",\"time\":\"20.*T.*\"' /tmp/log", "1\n1")
		sh(t, n, root+"kill c1 KILL; "+root+"delete --force c1; "+root+"delete --force c1; echo $?", "0")
	}
	for _, question := range answers {
		for _, path := range slices.Sorted(maps.Keys(told["runc"][question])) {
			known := false
			for begin := range notTold {
				known = known || strings.HasPrefix(path, begin)
			}
			if !told["powerd-oci"][question][path] && !known {
				t.Errorf("%s: runc tells %s, powerd-oci does not", question, path)
			}
		}
	}
}

// paths collects what a JSON value has where, with its kind: .linux.cgroup.v2 bool.
func paths(v any, at string, into map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for key, e := range v {
			paths(e, at+"."+key, into)
		}
	case []any:
		for _, e := range v {
			paths(e, at+"[]", into)
		}
	default:
		into[fmt.Sprintf("%s %T", at, v)] = true
	}
}
