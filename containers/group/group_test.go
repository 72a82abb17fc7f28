package group

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func ptr[T any](v T) *T { return &v }

func TestPath(t *testing.T) {
	for _, c := range []struct {
		systemd, rootless bool
		path, above       string
		want              Ref
		why               string
	}{
		{path: "", want: Ref{Path: "/powerd-oci/c1", Own: "/powerd-oci"}},
		{path: "/a/b", want: Ref{Path: "/a/b"}},
		{path: "a/../b", want: Ref{Path: "/powerd-oci/b", Own: "/powerd-oci"}},
		{path: "../../x", want: Ref{Path: "/powerd-oci/x", Own: "/powerd-oci"}},
		{path: "/../..", why: "want the path of a cgroup of its own"},
		{path: "a\nb", why: "want the path of a cgroup"},
		{path: "s.slice:p:n", why: "want --cgroup-manager=systemd"},
		{path: "/kubepods/a:b:c", want: Ref{Path: "/kubepods/a:b:c"}},
		{path: "/" + strings.Repeat("x", 300), why: "longer than 255"},
		{path: "x", above: "/user.slice/s", want: Ref{Path: "/user.slice/s/powerd-oci/x", Own: "/user.slice/s/powerd-oci"}},
		{systemd: true, path: "", want: Ref{Path: "/system.slice/powerd-oci-c1.scope", Slice: "system.slice", Unit: "powerd-oci-c1.scope"}},
		{systemd: true, path: "kubepods-pod1.slice:cri-containerd:abc", want: Ref{Path: "/kubepods.slice/kubepods-pod1.slice/cri-containerd-abc.scope", Slice: "kubepods-pod1.slice", Unit: "cri-containerd-abc.scope"}},
		{systemd: true, path: "-.slice:p:n", want: Ref{Path: "/p-n.scope", Slice: "-.slice", Unit: "p-n.scope"}},
		{systemd: true, path: ":p:n", want: Ref{Path: "/system.slice/p-n.scope", Slice: "system.slice", Unit: "p-n.scope"}},
		{systemd: true, rootless: true, path: ":p:n", above: "/user.slice/user@1.service", want: Ref{Path: "/user.slice/user@1.service/user.slice/p-n.scope", Slice: "user.slice", Unit: "p-n.scope"}},
		{systemd: true, path: "/a/b", why: "want slice:prefix:name"},
		{systemd: true, path: "s.slice:p:", why: "want slice:prefix:name"},
		{systemd: true, path: "s.slice:p:x.slice", why: "is a slice"},
		{systemd: true, path: "s--x.slice:p:n", why: "no name of a slice"},
		{systemd: true, path: "s:p:n", why: "no name of a slice"},
		{systemd: true, path: "a/b.slice:p:n", why: "no name of a slice"},
		{systemd: true, path: "s.slice:p:a/b", why: "no name of a systemd unit"},
		{systemd: true, path: "s.slice:p:" + strings.Repeat("x", 255), why: "no name of a systemd unit"},
	} {
		r := Ref{Rootless: c.rootless}
		resolve := r.resolveFolder
		if c.systemd {
			resolve = r.resolveScope
		}
		err := resolve(c.path, "c1", c.above)
		if c.why != "" {
			var fe *FieldError
			if !errors.As(err, &fe) || fe.Field != "linux.cgroupsPath" || !strings.Contains(err.Error(), c.why) {
				t.Errorf("%q: %v, want %q", c.path, err, c.why)
			}
			continue
		}
		c.want.Rootless = c.rootless
		if err != nil || r != c.want {
			t.Errorf("%q: %+v, %v, want %+v", c.path, r, err, c.want)
		}
	}
	r := Ref{}
	if err := r.resolveScope("", "a+b", ""); err != nil || r.Unit != `powerd-oci-a\x2bb.scope` {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestPathOfVersion1(t *testing.T) {
	_, err := Manager{Root: t.TempDir()}.Path(t.Context(), "", "c1")
	if err == nil || !strings.Contains(err.Error(), "--cgroup-manager=none") {
		t.Errorf("%v", err)
	}
}

func TestRefJSON(t *testing.T) {
	r := Ref{Root: "/sys/fs/cgroup", Path: "/a", Own: "/o", Slice: "s.slice", Unit: "u.scope", Rootless: true, Inode: math.MaxUint64 - 1}
	data, err := json.Marshal(r)
	var back Ref
	if err = errors.Join(err, json.Unmarshal(data, &back)); err != nil || back != r {
		t.Errorf("%s: %+v, %v", data, back, err)
	}
}

// written is settings as "file=value" lines.
func written(list []setting) (out []string) {
	for _, s := range list {
		line := s.file + "=" + s.value
		if s.other != nil {
			line += " or " + s.other.file + "=" + s.other.value
		}
		out = append(out, line)
	}
	return out
}

var conversions = []struct {
	json string
	now  string // cpu.max, memory.max and memory.current
	want string // settings, or with a ! the field and why
}{
	{`{}`, "", ""},
	{`{"cpu":{"shares":1024}}`, "", "cpu.weight=100"},
	{`{"cpu":{"shares":2}}`, "", "cpu.weight=1"},
	{`{"cpu":{"shares":262144}}`, "", "cpu.weight=10000"},
	{`{"cpu":{"shares":0}}`, "", ""},
	{`{"cpu":{"quota":50000}}`, "", "cpu.max=50000"},
	{`{"cpu":{"quota":50000,"period":20000}}`, "", "cpu.max=50000 20000"},
	{`{"cpu":{"quota":-1,"period":20000}}`, "", "cpu.max=max 20000"},
	{`{"cpu":{"quota":-1}}`, "", "cpu.max=max"},
	{`{"cpu":{"period":20000}}`, "", "cpu.max=max 20000"},
	{`{"cpu":{"period":20000}}`, "7000 100000", "cpu.max=7000 20000"},
	{`{"cpu":{"burst":3000}}`, "", "cpu.max.burst=3000"},
	{`{"cpu":{"burst":3000,"quota":5000}}`, "", "cpu.max.burst=3000|cpu.max=5000|cpu.max.burst=3000"},
	{`{"cpu":{"idle":1,"shares":512}}`, "", "cpu.idle=1"},
	{`{"cpu":{"idle":0,"shares":512}}`, "", "cpu.idle=0|cpu.weight=59"},
	{`{"cpu":{"idle":2}}`, "", "!linux.resources.cpu.idle: want 0 or 1"},
	{`{"cpu":{"realtimeRuntime":1}}`, "", "!linux.resources.cpu.realtimeRuntime: cgroup v2 has no realtime"},
	{`{"cpu":{"realtimePeriod":1}}`, "", "!linux.resources.cpu.realtimePeriod: cgroup v2 has no realtime"},
	{`{"cpu":{"cpus":"0-1,3","mems":"0"}}`, "", "cpuset.cpus=0-1,3|cpuset.mems=0"},
	{`{"memory":{"limit":1000}}`, "", "memory.max=1000"},
	{`{"memory":{"limit":1000,"swap":1500}}`, "", "memory.swap.max=500|memory.max=1000"},
	{`{"memory":{"limit":1000,"swap":1000}}`, "", "memory.swap.max=0|memory.max=1000"},
	{`{"memory":{"limit":1000,"swap":-1}}`, "", "memory.swap.max=max|memory.max=1000"},
	{`{"memory":{"limit":-1}}`, "", "memory.swap.max=max|memory.max=max"},
	{`{"memory":{"limit":-1,"swap":500}}`, "", "memory.swap.max=500|memory.max=max"},
	{`{"memory":{"swap":1500}}`, "x 1000", "memory.swap.max=500"},
	{`{"memory":{"swap":1500}}`, "", "!linux.resources.memory.swap: it is of memory and swap together: it needs memory.limit"},
	{`{"memory":{"limit":1000,"swap":900}}`, "", "!linux.resources.memory.swap: memory and swap together, 900, are less"},
	{`{"memory":{"limit":-2}}`, "", "!linux.resources.memory.limit: want bytes"},
	{`{"memory":{"reservation":700}}`, "", "memory.low=700"},
	{`{"memory":{"reservation":-1}}`, "", "memory.low=max"},
	{`{"memory":{"limit":1000,"checkBeforeUpdate":true}}`, "x max 1000", "!linux.resources.memory.limit: 1000 bytes are in use"},
	{`{"memory":{"limit":1000,"checkBeforeUpdate":true}}`, "x max 999", "memory.max=1000"},
	{`{"memory":{"limit":1000,"swap":2000,"checkBeforeUpdate":true}}`, "x max 2000", "!linux.resources.memory.limit: 2000 bytes"},
	{`{"memory":{"disableOOMKiller":true}}`, "", "!linux.resources.memory.disableOOMKiller: "},
	{`{"memory":{"disableOOMKiller":false,"useHierarchy":true}}`, "", ""},
	{`{"memory":{"swappiness":10}}`, "", "!linux.resources.memory.swappiness: "},
	{`{"memory":{"kernel":10}}`, "", "!linux.resources.memory.kernel: "},
	{`{"memory":{"kernelTCP":10}}`, "", "!linux.resources.memory.kernelTCP: "},
	{`{"memory":{"useHierarchy":false}}`, "", "!linux.resources.memory.useHierarchy: "},
	{`{"pids":{}}`, "", ""},
	{`{"pids":{"limit":7}}`, "", "pids.max=7"},
	{`{"pids":{"limit":-1}}`, "", "pids.max=max"},
	{`{"pids":{"limit":0}}`, "", "pids.max=1"},
	{`{"blockIO":{"weight":10}}`, "", "io.bfq.weight=10 or io.weight=1"},
	{`{"blockIO":{"weight":1000}}`, "", "io.bfq.weight=1000 or io.weight=10000"},
	{`{"blockIO":{"weight":5}}`, "", "!linux.resources.blockIO.weight: want 10 to 1000"},
	{`{"blockIO":{"leafWeight":500}}`, "", "!linux.resources.blockIO.leafWeight: "},
	{`{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":100}]}}`, "", "io.bfq.weight=8:0 100 or io.weight=8:0 910"},
	{`{"blockIO":{"weightDevice":[{"major":8,"minor":0,"leafWeight":100}]}}`, "", "!linux.resources.blockIO.weightDevice[0].leafWeight: "},
	{`{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":100}],"throttleWriteIOPSDevice":[{"major":8,"minor":1,"rate":0}]}}`, "", "io.max=8:0 rbps=100|io.max=8:1 wiops=max"},
	{`{"blockIO":{"throttleReadBpsDevice":[{"major":-8,"minor":0,"rate":100}]}}`, "", "!linux.resources.blockIO.throttleReadBpsDevice[0]: -8:0 is no number"},
	{`{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}`, "", "hugetlb.2MB.max=4194304|hugetlb.2MB.rsvd.max=4194304"},
	{`{"hugepageLimits":[{"pageSize":"2M","limit":1}]}`, "", "!linux.resources.hugepageLimits[0].pageSize: "},
	{`{"hugepageLimits":[{"pageSize":"../2MB","limit":1}]}`, "", "!linux.resources.hugepageLimits[0].pageSize: "},
	{`{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":1}}}`, "", "rdma.max=mlx5_1 hca_handle=3 hca_object=1"},
	{`{"rdma":{"mlx5_1":{"hcaObjects":1}}}`, "", "rdma.max=mlx5_1 hca_object=1"},
	{`{"rdma":{"mlx5_1":{}}}`, "", `!linux.resources.rdma["mlx5_1"]: want hcaHandles or hcaObjects`},
	{`{"network":{"classID":0}}`, "", ""},
	{`{"network":{"classID":5}}`, "", "!linux.resources.network: "},
	{`{"pids":{"limit":7},"unified":{"pids.max":"9","memory.high":"1M"}}`, "", "pids.max=7|memory.high=1M|pids.max=9"},
	{`{"unified":{"io.max":"8:0 rbps=1\n8:1 wbps=2\n"}}`, "", "io.max=8:0 rbps=1|io.max=8:1 wbps=2"},
	{`{"unified":{"../x.y":"1"}}`, "", `!linux.resources.unified["../x.y"]: want the name`},
	{`{"unified":{"memory":"1"}}`, "", `!linux.resources.unified["memory"]: want the name`},
	{`{"unified":{"cgroup.procs":"1"}}`, "", `!linux.resources.unified["cgroup.procs"]: it is no limit`},
}

func TestSettings(t *testing.T) {
	for _, c := range conversions {
		var r specs.LinuxResources
		if err := json.Unmarshal([]byte(c.json), &r); err != nil {
			t.Fatal(c.json, err)
		}
		read := func(file string) string {
			max, mem, _ := strings.Cut(c.now, " ")
			switch words := append(strings.Fields(mem), "", ""); file {
			case "cpu.max":
				return strings.TrimSpace(max + " x")[:len(max)]
			case "memory.max":
				return words[0]
			case "memory.current":
				return words[1]
			}
			return ""
		}
		got, err := settings(&r, read)
		if why, ok := strings.CutPrefix(c.want, "!"); ok {
			var fe *FieldError
			if !errors.As(err, &fe) || !strings.HasPrefix(err.Error(), why) {
				t.Errorf("%s: %v, want %q", c.json, err, why)
			}
		} else if s := strings.Join(written(got), "|"); err != nil || s != c.want {
			t.Errorf("%s: %q, %v, want %q", c.json, s, err, c.want)
		}
	}
}

// Whatever the resources say, what is written are lines for files of a cgroup.
func FuzzSettings(f *testing.F) {
	for _, c := range conversions {
		f.Add([]byte(c.json), c.now)
	}
	f.Fuzz(func(t *testing.T, data []byte, now string) {
		var r specs.LinuxResources
		if json.Unmarshal(data, &r) != nil {
			return
		}
		list, err := settings(&r, func(string) string { return now })
		if err != nil {
			var fe *FieldError
			if !errors.As(err, &fe) || !strings.HasPrefix(fe.Field, resources) {
				t.Fatalf("no field: %v", err)
			}
			return
		}
		for _, s := range list {
			if strings.ContainsAny(s.file, "/\x00") || !strings.Contains(s.file, ".") || s.field == "" || strings.Contains(s.value, "\n") {
				t.Fatalf("%+v", s)
			}
			former(s, now)
		}
		properties(list)
	})
}

func FuzzPath(f *testing.F) {
	f.Add("a/b", "c1", true)
	f.Add("s.slice:p:n", "c+1", false)
	f.Fuzz(func(t *testing.T, path, id string, systemd bool) {
		var r Ref
		if systemd {
			if r.resolveScope(path, id, "/above") == nil && (!strings.HasPrefix(r.Path, "/above/") || !strings.HasSuffix(r.Path, "/"+r.Unit) || strings.Contains(r.Unit, "/")) {
				t.Fatalf("%+v", r)
			}
		} else if r.resolveFolder(path, id, "/above") == nil && (r.Path == "/" || strings.Contains(r.Path+"/", "/../") || r.Own != "" && !strings.HasPrefix(r.Path, r.Own+"/")) {
			t.Fatalf("%+v", r)
		}
	})
}

func FuzzParsers(f *testing.F) {
	f.Add("some avg10=0.00 avg60=0.12 avg300=0.05 total=51234\nfull avg10=NaN total=0\n")
	f.Add("populated 1\nfrozen 0\n")
	f.Add("0::/user.slice\n")
	f.Add("0 1000 1\n")
	f.Add("0-3,65535")
	f.Add("uint64 5")
	f.Fuzz(func(t *testing.T, s string) {
		parseFlat(s)
		parseEvent(s, "frozen")                                           //nolint:errcheck
		parseOwn(s)                                                       //nolint:errcheck
		parseUIDMap(s, 0)                                                 //nolint:errcheck
		annotations(map[string]string{"org.systemd.property.XSec": s})    //nolint:errcheck
		annotations(map[string]string{"org.systemd.property.TimeSec": s}) //nolint:errcheck
		if _, err := json.Marshal(parsePSI(s)); err != nil {
			t.Fatal(err)
		}
		if n := numbers(s); !slices.IsSorted(n) {
			t.Fatal(n)
		}
	})
}

func TestParsers(t *testing.T) {
	p := parsePSI("some avg10=1.50 avg60=0.12 avg300=0.05 total=51234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n")
	if p == nil || p.Some != (PSIData{1.5, 0.12, 0.05, 51234}) || p.Full.Total != 7 || parsePSI("") != nil {
		t.Errorf("%+v", p)
	}
	if own, err := parseOwn("1:cpu:/x\n0::/a/b\n"); own != "/a/b" || err != nil {
		t.Errorf("%q, %v", own, err)
	}
	if uid, err := parseUIDMap("0 1000 1\n1 100000 65536\n", 5); uid != 100004 || err != nil {
		t.Errorf("%d, %v", uid, err)
	}
	if got := numbers("0,2-3,9"); !reflect.DeepEqual(got, []uint16{0, 2, 3, 9}) {
		t.Errorf("%v", got)
	}
	if v := parseFlat("anon 5\nfile x\n\n"); len(v) != 1 || v["anon"] != 5 {
		t.Errorf("%v", v)
	}
}

func TestProperties(t *testing.T) {
	var got []string
	for _, p := range properties([]setting{
		{file: "cpu.max", value: "33333 100000"}, {file: "cpu.weight", value: "50"}, {file: "cpuset.cpus", value: "0,9"},
		{file: "memory.max", value: "max"}, {file: "memory.high", value: "1M"}, {file: "pids.max", value: "0"}, {file: "hugetlb.2MB.max", value: "1"},
	}) {
		got = append(got, fmt.Sprintf("%s=%s", p.Name, p.Value))
	}
	want := []string{"AllowedCPUs=@ay [0x1, 0x2]", "CPUQuotaPerSecUSec=@t 340000", "CPUQuotaPeriodUSec=@t 100000", "CPUWeight=@t 50",
		"MemoryMax=@t 18446744073709551615", "TasksMax=@t 1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAnnotations(t *testing.T) {
	p, err := annotations(map[string]string{"org.systemd.property.TimeoutStopSec": "uint64 3", "org.systemd.property.CollectMode": "'inactive-or-failed'",
		"org.systemd.property.CPUQuotaPerSecUSec": "uint64 5", "org.other": "x"})
	if err != nil || len(p) != 3 || p[0].Name != "CPUQuotaPerSecUSec" || p[1].Value.Value() != "inactive-or-failed" || p[2].Name != "TimeoutStopUSec" || p[2].Value.Value() != uint64(3e6) {
		t.Errorf("%+v, %v", p, err)
	}
	for key, value := range map[string]string{"TimeoutStopSec": "'soon'", "X1": "5", "KillMode": "no quotes", "StopSec": "-5"} {
		key = "org.systemd.property." + key
		var fe *FieldError
		if _, err := annotations(map[string]string{key: value}); !errors.As(err, &fe) || fe.Field != "annotations."+key {
			t.Errorf("%s=%s: %v", key, value, err)
		}
	}
}

func TestFormer(t *testing.T) {
	for _, c := range []struct{ file, value, before, want string }{
		{"io.max", "8:0 rbps=1", "8:16 rbps=9 wbps=max\n8:0 rbps=5 wbps=max riops=max wiops=max", "8:0 rbps=5 wbps=max riops=max wiops=max"},
		{"io.max", "8:0 rbps=1", "", "8:0 rbps=max wbps=max riops=max wiops=max"},
		{"rdma.max", "m hca_object=1", "m hca_handle=2 hca_object=max", "m hca_handle=2 hca_object=max"},
		{"io.weight", "200", "default 100\n8:0 50", "default 100"},
		{"io.weight", "8:0 200", "default 100\n8:0 50", "8:0 50"},
		{"io.weight", "8:16 200", "default 100\n8:0 50", "8:16 default"},
		{"pids.max", "5", "max", "max"},
	} {
		if got := former(setting{file: c.file, value: c.value}, c.before).value; got != c.want {
			t.Errorf("%s %q: %q, want %q", c.file, c.value, got, c.want)
		}
	}
}

func TestOwner(t *testing.T) {
	spec := func() *specs.Spec {
		return &specs.Spec{Process: &specs.Process{User: specs.User{UID: 5}},
			Mounts: []specs.Mount{{Destination: "/sys/fs/cgroup", Type: "cgroup", Options: []string{"nosuid", "rw"}}},
			Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: "cgroup"}, {Type: "user"}},
				UIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 5}, {ContainerID: 5, HostID: 3000, Size: 10}}}}
	}
	if uid, ok := Owner(spec()); !ok || uid != 3000 {
		t.Errorf("%d, %v", uid, ok)
	}
	for name, spoil := range map[string]func(*specs.Spec){
		"read-only":           func(s *specs.Spec) { s.Mounts[0].Options[1] = "ro" },
		"no mount":            func(s *specs.Spec) { s.Mounts = nil },
		"no cgroup namespace": func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] },
		"no user namespace":   func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[:1] },
		"the host's":          func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/proc/1/ns/user" },
		"not mapped":          func(s *specs.Spec) { s.Process.User.UID = 99 },
	} {
		s := spec()
		if spoil(s); func() bool { _, ok := Owner(s); return ok }() {
			t.Errorf("%s: it gets an owner", name)
		}
	}
}

// allowed is what the device program is to do, said plainly.
func allowed(rules []deviceRule, kind int32, major, minor uint32, access int32) bool {
	for bit := int32(1); bit <= 4; bit <<= 1 {
		if access&bit == 0 {
			continue
		}
		ok := false
		for _, r := range rules {
			if (r.kind < 0 || r.kind == kind) && (r.major < 0 || r.major == int64(major)) && (r.minor < 0 || r.minor == int64(minor)) && r.access&bit != 0 {
				ok = r.allow
			}
		}
		if !ok {
			return false
		}
	}
	return true
}

// execute interprets the few instructions that a device program is made of.
func execute(t *testing.T, p asm.Instructions, ctx [3]uint32) bool {
	t.Helper()
	at := map[string]int{}
	for i, ins := range p {
		if s := ins.Symbol(); s != "" {
			at[s] = i
		}
	}
	var r [11]uint64
	for pc := 0; pc < len(p); pc++ {
		ins := p[pc]
		value := uint64(ins.Constant)
		if ins.OpCode.Source() == asm.RegSource {
			value = r[ins.Src]
		}
		jump := func(taken bool) {
			if taken {
				to, ok := at[ins.Reference()]
				if !ok {
					t.Fatalf("no label %q", ins.Reference())
				}
				pc = to - 1
			}
		}
		switch class := ins.OpCode.Class(); {
		case class == asm.LdXClass:
			r[ins.Dst] = uint64(ctx[ins.Offset/4])
		case ins.OpCode.JumpOp() == asm.Exit:
			return r[0] == 1
		case class.IsJump() && ins.OpCode.JumpOp() == asm.JNE:
			jump(uint32(r[ins.Dst]) != uint32(value))
		case class.IsJump() && ins.OpCode.JumpOp() == asm.JEq:
			jump(uint32(r[ins.Dst]) == uint32(value))
		case class.IsALU() && ins.OpCode.ALUOp() == asm.Mov:
			r[ins.Dst] = uint64(uint32(value))
		case class.IsALU() && ins.OpCode.ALUOp() == asm.And:
			r[ins.Dst] = uint64(uint32(r[ins.Dst]) & uint32(value))
		case class.IsALU() && ins.OpCode.ALUOp() == asm.RSh:
			r[ins.Dst] = uint64(uint32(r[ins.Dst]) >> value)
		default:
			t.Fatalf("instruction %v", ins)
		}
	}
	t.Fatal("the program has no end")
	return false
}

func FuzzDevices(f *testing.F) {
	f.Add([]byte(`[{"allow":false},{"allow":true,"type":"c","major":10,"minor":200,"access":"rw"},{"allow":false,"type":"c","major":10,"access":"w"}]`), true, uint32(10), uint32(200), uint8(6))
	f.Add([]byte(`[{"allow":true,"type":"a"},{"allow":false,"type":"b","major":4294967295,"minor":-1,"access":"m"}]`), false, uint32(math.MaxUint32), uint32(1), uint8(1))
	f.Add([]byte(`[]`), true, uint32(1), uint32(3), uint8(7))
	f.Fuzz(func(t *testing.T, data []byte, char bool, major, minor uint32, access uint8) {
		var list []specs.LinuxDeviceCgroup
		if json.Unmarshal(data, &list) != nil || len(list) > 100 {
			return
		}
		rules, err := deviceRules(list)
		if err != nil {
			return
		}
		kind := int32(unix.BPF_DEVCG_DEV_BLOCK)
		if char {
			kind = unix.BPF_DEVCG_DEV_CHAR
		}
		asked := int32(access & allAccess)
		want := allowed(rules, kind, major, minor, asked)
		if got := execute(t, deviceProgram(rules), [3]uint32{uint32(asked)<<16 | uint32(kind), major, minor}); got != want {
			t.Errorf("%s: %d of %v %d:%d is %v, want %v", data, asked, kind, major, minor, got, want)
		}
	})
}

func TestDeviceRules(t *testing.T) {
	c, b := int32(unix.BPF_DEVCG_DEV_CHAR), int32(unix.BPF_DEVCG_DEV_BLOCK)
	const r, w, m = unix.BPF_DEVCG_ACC_READ, unix.BPF_DEVCG_ACC_WRITE, unix.BPF_DEVCG_ACC_MKNOD
	rules, err := deviceRules([]specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Major: ptr[int64](10), Minor: ptr[int64](229), Access: "r"},
		{Allow: true, Type: "b", Major: ptr[int64](8), Access: "rw"},
		{Allow: false, Type: "b", Major: ptr[int64](8), Minor: ptr[int64](1), Access: "w"},
		{Allow: false, Type: "c", Major: ptr[int64](1), Minor: ptr[int64](3)},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := deviceProgram(rules)
	for _, q := range []struct {
		kind         int32
		major, minor uint32
		access       int32
		want         bool
	}{
		{c, 10, 229, r, true}, {c, 10, 229, r | w, false}, {c, 10, 230, r, false}, {b, 10, 229, r, false},
		{b, 8, 0, r | w, true}, {b, 8, 1, r, true}, {b, 8, 1, w, false}, {b, 8, 1, r | w, false}, {b, 8, 0, m, true},
		{c, 1, 3, r | w | m, true}, {c, 136, 7, r | w, true}, {c, 4, 64, m, true}, {c, 4, 64, r, false},
	} {
		if got := execute(t, p, [3]uint32{uint32(q.access)<<16 | uint32(q.kind), q.major, q.minor}); got != q.want {
			t.Errorf("%+v: %v", q, got)
		}
	}
	for _, d := range []struct {
		rule specs.LinuxDeviceCgroup
		name string
	}{
		{specs.LinuxDeviceCgroup{Type: "p"}, "type"}, {specs.LinuxDeviceCgroup{Access: "rx"}, "access"},
		{specs.LinuxDeviceCgroup{Major: ptr[int64](-2)}, "major"}, {specs.LinuxDeviceCgroup{Minor: ptr[int64](1 << 32)}, "minor"},
	} {
		var fe *FieldError
		if _, err := deviceRules([]specs.LinuxDeviceCgroup{d.rule}); !errors.As(err, &fe) || fe.Field != "linux.resources.devices[0]."+d.name {
			t.Errorf("%+v: %v", d.rule, err)
		}
	}
}
