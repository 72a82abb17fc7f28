package oci

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const minimal = `{"ociVersion": "1.3.0", "root": {"path": "r"}, "process": {"args": ["true"], "cwd": "/"},
 "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]}`

func TestParse(t *testing.T) {
	if _, err := Parse([]byte(minimal + "}")); err != nil {
		t.Fatal(err)
	}
	for more, want := range map[string]string{
		`"process": {"args": [], "cwd": "/"}`:                                                                                                                          "process.args: it is required",
		`"process": {"args": ["a"], "cwd": "x"}`:                                                                                                                       `process.cwd: want an absolute path, not "x"`,
		`"process": {"args": ["a"], "cwd": "/", "rlimits": [{"type": "RLIMIT_X"}]}`:                                                                                    `process.rlimits[0].type: there is no limit "RLIMIT_X"`,
		`"process": {"args": ["a"], "cwd": "/", "rlimits": [{"type": "RLIMIT_AS", "soft": 2, "hard": 1}]}`:                                                             `process.rlimits[0]: soft 2 is above hard 1`,
		`"process": {"args": ["a"], "cwd": "/", "env": ["A"]}`:                                                                                                         `process.env: want NAME=VALUE, not "A"`,
		`"mounts": [{"destination": "/"}]`:                                                                                                                             `mounts[0].destination: want a path inside the root, not "/"`,
		`"mounts": [{"destination": "/../.."}]`:                                                                                                                        `mounts[0].destination: want a path inside the root, not "/../.."`,
		`"mounts": [{"destination": "/x", "options": ["remount"]}]`:                                                                                                    `mounts[0].options: remount is not supported`,
		`"mounts": [{"destination": "/x", "uidMappings": [{"size": 1}]}]`:                                                                                              `mounts[0].uidMappings: want both`,
		`"process": {"args": ["a"], "cwd": "/", "scheduler": {"policy": "SCHED_X"}}`:                                                                                   `process.scheduler.policy: there is no policy "SCHED_X"`,
		`"process": {"args": ["a"], "cwd": "/", "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}`:                                                            `process.ioPriority: want a class`,
		`"process": {"args": ["a"], "cwd": "/", "oomScoreAdj": 1001}`:                                                                                                  `process.oomScoreAdj: want -1000 to 1000, not 1001`,
		`"process": {"args": ["a\u0000"], "cwd": "/"}`:                                                                                                                 `process.args[0]: it holds a NUL`,
		`"linux": {"namespaces": [{"type": "pid"}]}`:                                                                                                                   `linux.namespaces: a mount namespace is required`,
		`"linux": {"namespaces": [{"type": "mount"}, {"type": "mount"}]}`:                                                                                              `linux.namespaces[1].type: "mount" is there twice`,
		`"linux": {"namespaces": [{"type": "mount"}, {"type": "user"}]}`:                                                                                               `linux.uidMappings: a new user namespace needs`,
		`"linux": {"namespaces": [{"type": "mount"}], "sysctl": {"net.ipv4.ip_forward": "1"}}`:                                                                         `net.ipv4.ip_forward is not of a namespace`,
		`"linux": {"namespaces": [{"type": "mount"}], "sysctl": {"net.../../kernel/panic": "1"}}`:                                                                      `is no name of a sysctl`,
		`"linux": {"namespaces": [{"type": "mount"}], "cgroupsPath": "/a/.."}`:                                                                                         `linux.cgroupsPath: want the path of a cgroup of its own`,
		`"process": {"args": ["a"], "cwd": "/", "execCPUAffinity": {"final": "0-"}}`:                                                                                   `process.execCPUAffinity.final: want a list such as 0-3,7`,
		`"linux": {"namespaces": [{"type": "mount"}], "memoryPolicy": {"mode": "MPOL_X"}}`:                                                                             `linux.memoryPolicy.mode: there is no mode "MPOL_X"`,
		`"linux": {"namespaces": [{"type": "mount"}], "memoryPolicy": {"mode": "MPOL_BIND"}}`:                                                                          `linux.memoryPolicy.nodes: MPOL_BIND needs one at least`,
		`"linux": {"namespaces": [{"type": "mount"}], "memoryPolicy": {"mode": "MPOL_LOCAL", "nodes": "0"}}`:                                                           `linux.memoryPolicy.nodes: MPOL_LOCAL takes none`,
		`"linux": {"namespaces": [{"type": "mount"}], "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]}}`: `linux.memoryPolicy.flags: nodes are either static or relative`,
		`"linux": {"namespaces": [{"type": "mount"}], "intelRdt": {"closID": "../x"}}`:                                                                                 `linux.intelRdt.closID: want a name`,
		`"linux": {"namespaces": [{"type": "mount"}], "intelRdt": {"memBwSchema": "L3:0=1"}}`:                                                                          `linux.intelRdt.memBwSchema: want MB:`,
		`"linux": {"namespaces": [{"type": "mount"}], "intelRdt": {"schemata": ["L3:0=1\nMB:0=1"]}}`:                                                                   `linux.intelRdt: line 1 of its schemata`,
		`"annotations": {"powerd.slowdown": "0.5"}`:                                                                                                                    `annotations[powerd.slowdown]: want a factor of 1 to 1000, not "0.5"`,
		`"annotations": {"powerd.class": "a/b"}`:                                                                                                                       `annotations[powerd.class]: want a name`,
		`"annotations": {"powerd.tenant": ""}`:                                                                                                                         `annotations[powerd.tenant]: want a name, not ""`,
		`"annotations": {"powerd.energy-budget": "2"}`:                                                                                                                 `annotations[powerd.energy-budget]: want a power such as 2W`,
		`"annotations": {"powerd.energy-budget": "0W"}`:                                                                                                                `annotations[powerd.energy-budget]: want a power such as 2W`,
		`"annotations": {"powerd.energy-budget": "1J/"}`:                                                                                                               `annotations[powerd.energy-budget]: want a power such as 2W`,
		`"hostname": "x"`:                                       `hostname: it needs a uts namespace`,
		`"hooks": {"poststop": [{"path": "x"}]}`:                `hooks.poststop[0].path: want an absolute path, not "x"`,
		`"hooks": {"prestart": [{"path": "/x", "timeout": 0}]}`: `hooks.prestart[0].timeout: want seconds above 0`,
	} {
		_, err := Parse([]byte(minimal + "," + more + "}"))
		var fe *FieldError
		if !errors.As(err, &fe) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %s", more, err, want)
		}
	}
}

func TestParseMountOptions(t *testing.T) {
	o, err := parseMountOptions([]string{"nosuid", "ro", "rw", "rnoexec", "strictatime", "rbind", "rslave", "size=1k", "newinstance"})
	if err != nil || o.set != unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_STRICTATIME || o.clear != unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR__ATIME ||
		o.recSet != unix.MOUNT_ATTR_NOEXEC || !o.rbind || o.propagation != unix.MS_SLAVE || !o.recPropagation || strings.Join(o.data, ",") != "size=1k,newinstance" {
		t.Errorf("%+v, %v", o, err)
	}
}

// Whatever a bundle says, a script is built or an error names the field; nothing
// panics, and no mount lands on the root itself.
func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal + `, "mounts": [{"destination": "/dev", "type": "tmpfs", "options": ["nosuid", "mode=755"]}]}`))
	f.Add([]byte(minimal + `, "hostname": "x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("an error of two lines: %v", err)
			}
			return
		}
		for _, m := range s.Mounts {
			if m.Type == "bind" || m.Source != "" {
				return // looks at the host
			}
		}
		tk, err := newTalk()
		if err != nil {
			t.Fatal(err)
		}
		defer tk.Close()
		script(s, "/", &plan{}, parts{talk: tk, start: tk.down}) //nolint:errcheck // it must only not panic
	})
}

func TestIDs(t *testing.T) {
	e := Engine{Root: t.TempDir()}
	for _, id := range []string{"", ".", "..", "a/b", "../x", "a\x00", "ä"} {
		if _, err := e.State(id); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("id %q: %v", id, err)
		}
	}
	if _, err := e.State("x"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if all, err := e.List(); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}
