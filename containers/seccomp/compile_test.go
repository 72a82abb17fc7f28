package seccomp

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// run plays a filter on a call, as the kernel does: the machine's words, big-endian
// for the interpreter.
func run(t testing.TB, f *Filter, id auditArch, nr uint32, args [6]uint64) uint32 {
	t.Helper()
	var raw []bpf.RawInstruction
	for _, i := range f.Program {
		raw = append(raw, bpf.RawInstruction{Op: i.Code, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	prog, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the filter cannot be read back")
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[0:], nr)
	binary.BigEndian.PutUint32(data[4:], uint32(id))
	for i, a := range args {
		binary.BigEndian.PutUint32(data[16+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[20+8*i:], uint32(a>>32))
	}
	v, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(v)
}

func matches(a specs.LinuxSeccompArg, v uint64) bool {
	switch a.Op {
	case specs.OpEqualTo:
		return v == a.Value
	case specs.OpNotEqual:
		return v != a.Value
	case specs.OpGreaterThan:
		return v > a.Value
	case specs.OpGreaterEqual:
		return v >= a.Value
	case specs.OpLessThan:
		return v < a.Value
	case specs.OpLessEqual:
		return v <= a.Value
	}
	return v&a.Value == a.ValueTwo
}

// Random profiles and calls: the filter says what the rules, read one by one, say.
func TestAgainstRules(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	names := []string{"read", "write", "open", "close", "clone", "personality", "socket", "mmap", "openat2", "clone3", "nonesuch"}
	ops := []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpMaskedEqual}
	values := []uint64{0, 1, 2, 7, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 + 1, 1 << 63, 1<<64 - 1}
	acts := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKillProcess, specs.ActTrap, specs.ActLog}
	pick := func() uint64 { return values[r.IntN(len(values))] }
	for range 500 {
		p := &specs.LinuxSeccomp{DefaultAction: acts[r.IntN(len(acts))]}
		for range r.IntN(8) {
			s := specs.LinuxSyscall{Names: []string{names[r.IntN(len(names))], names[r.IntN(len(names))]}, Action: acts[r.IntN(len(acts))]}
			for _, index := range r.Perm(6)[:r.IntN(4)] {
				s.Args = append(s.Args, specs.LinuxSeccompArg{Index: uint(index), Value: pick(), ValueTwo: pick(), Op: ops[r.IntN(len(ops))]})
			}
			p.Syscalls = append(p.Syscalls, s)
		}
		f, err := Compile(p)
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			name := names[r.IntN(len(names)-1)]
			args := [6]uint64{pick(), pick(), pick(), pick(), pick(), pick()}
			want := actions[p.DefaultAction]
			if p.DefaultAction == specs.ActErrno {
				want |= uint32(unix.EPERM)
			}
			newest := 0
			for _, s := range p.Syscalls {
				for _, n := range s.Names {
					newest = max(newest, arch.X86_64.SyscallNames[n])
				}
			}
			nr := arch.X86_64.SyscallNames[name]
			if nr > newest && p.DefaultAction != specs.ActAllow && p.DefaultAction != specs.ActLog {
				want = retErrno | uint32(unix.ENOSYS)
			}
			for _, s := range p.Syscalls {
				if slices.Contains(s.Names, name) && !slices.ContainsFunc(s.Args, func(a specs.LinuxSeccompArg) bool { return !matches(a, args[a.Index]) }) {
					want = actions[s.Action]
					if s.Action == specs.ActErrno {
						want |= uint32(unix.EPERM)
					}
					break
				}
			}
			if got := run(t, f, auditX86_64, uint32(nr), args); got != want {
				data, _ := json.Marshal(p)
				t.Fatalf("%s%v: %#x, want %#x\n%s", name, args, got, want, data)
			}
		}
	}
}

func TestArchitectures(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: ptr(uint(38)), Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow},
			{Names: []string{"clone"}, Action: specs.ActErrno, ErrnoRet: ptr(uint(7)), Args: []specs.LinuxSeccompArg{{Index: 0, Value: 1, Op: specs.OpEqualTo}, {Index: 0, Value: 2, Op: specs.OpEqualTo}}}}}
	f, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		why  string
		id   auditArch
		nr   uint32
		arg  uint64
		want uint32
	}{
		{"x86_64's read", auditX86_64, 0, 0, 0x7fff0000},
		{"i386's read", auditI386, 3, 0, 0x7fff0000},
		{"i386's restart_syscall", auditI386, 0, 0, retErrno | 38},
		{"x32's read", auditX86_64, x32Bit, 0, retErrno | 38},
		{"an architecture that is not meant", auditAArch64, 63, 0, 0},
		{"one argument or the other", auditX86_64, 56, 1, retErrno | 7},
		{"one argument or the other", auditX86_64, 56, 2, retErrno | 7},
		{"no argument", auditX86_64, 56, 3, retErrno | 38},
		{"a call to come", auditX86_64, 600, 0, retErrno | 38},
	} {
		if got := run(t, f, c.id, c.nr, [6]uint64{c.arg}); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.why, got, c.want)
		}
	}
}

func ptr[T any](v T) *T { return &v }

func TestErrors(t *testing.T) {
	for profile, want := range map[string]string{
		`{"defaultAction": "X"}`:                                                                                                     `linux.seccomp.defaultAction: there is no action "X"`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}`:                                                                  `linux.seccomp.defaultErrnoRet: SCMP_ACT_ALLOW returns none`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z"]}`:                                                      `linux.seccomp.architectures[0]: "SCMP_ARCH_Z" is not supported`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["F"]}`:                                                                        `linux.seccomp.flags: "F" is not supported`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ERRNO"}]}`:                                            `linux.seccomp.syscalls[0].names: it is required`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}`:                        `linux.seccomp.listenerPath: SCMP_ACT_NOTIFY needs the socket of an agent`,
		`{"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/s"}`:                                                                 `linux.seccomp.defaultAction: SCMP_ACT_NOTIFY is for calls that are named`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/s"}`:                                                                  `linux.seccomp.listenerPath: it is for SCMP_ACT_NOTIFY, which no call has`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/s", "syscalls": [{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]}`: `linux.seccomp.syscalls[0].names: write cannot be SCMP_ACT_NOTIFY: without it the agent does not hear of the listener`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{"op": "X"}]}]}`:   `linux.seccomp.syscalls[0].args[0].op: there is no operator "X"`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{"index": 6}]}]}`:  `linux.seccomp.syscalls[0].args[0].index: want 0 to 5, not 6`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000}]}`:       `linux.seccomp.syscalls[0].errnoRet: there is no error 5000`,
	} {
		var p specs.LinuxSeccomp
		if err := json.Unmarshal([]byte(profile), &p); err != nil {
			t.Fatal(err)
		}
		_, err := Compile(&p)
		var fe *FieldError
		if !errors.As(err, &fe) || err.Error() != want {
			t.Errorf("%s: %v, want %s", profile, err, want)
		}
	}
}

// Whatever a profile says, it makes a filter that ends, or an error in one line.
func FuzzCompile(f *testing.F) {
	f.Add([]byte(`{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X32"], "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 1, "value": 7, "op": "SCMP_CMP_MASKED_EQ"}]}]}`), uint32(0))
	f.Fuzz(func(t *testing.T, data []byte, nr uint32) {
		var p specs.LinuxSeccomp
		if json.Unmarshal(data, &p) != nil {
			return
		}
		filter, err := Compile(&p)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("an error of two lines: %v", err)
			}
			return
		}
		run(t, filter, auditX86_64, nr, [6]uint64{})
	})
}

func BenchmarkCompile(b *testing.B) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	s := specs.LinuxSyscall{Action: specs.ActAllow}
	for name, nr := range arch.X86_64.SyscallNames {
		if nr%7 != 0 {
			s.Names = append(s.Names, name)
		}
	}
	p.Syscalls = append(p.Syscalls, s)
	for b.Loop() {
		f, err := Compile(p)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(f.Program)), "instructions")
	}
}
