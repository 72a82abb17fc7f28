package seccomp

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A Filter is what seccomp(2) takes.
type Filter struct {
	Program []unix.SockFilter
	// Flags are SECCOMP_FILTER_FLAG ones.
	Flags uintptr
	// Notify: calls are answered by an agent, to whose socket SendListener sends what
	// seccomp(2) returns, a listener.
	Notify bool
	// Listener is the agent's socket, and Metadata what it is told beside.
	Listener, Metadata string
}

// A FieldError is a field of linux.seccomp that cannot be used, and why.
type FieldError struct{ Field, Why string }

func (e *FieldError) Error() string { return e.Field + ": " + e.Why }

func field(name, format string, args ...any) error {
	return &FieldError{"linux.seccomp." + name, fmt.Sprintf(format, args...)}
}

const (
	retErrno = 0x00050000
	x32Bit   = 0x40000000
	// maxProgram is BPF_MAXINSNS.
	maxProgram = 4096
)

// actions are the SECCOMP_RET values.
var actions = map[specs.LinuxSeccompAction]uint32{
	specs.ActKill: 0, specs.ActKillThread: 0, specs.ActKillProcess: 0x80000000, specs.ActTrap: 0x00030000, specs.ActErrno: retErrno,
	specs.ActTrace: 0x7ff00000, specs.ActAllow: 0x7fff0000, specs.ActLog: 0x7ffc0000, specs.ActNotify: 0x7fc00000,
}

var flags = map[specs.LinuxSeccompFlag]uintptr{
	"SECCOMP_FILTER_FLAG_TSYNC": 0, // there is one thread
	specs.LinuxSeccompFlagLog:   unix.SECCOMP_FILTER_FLAG_LOG, specs.LinuxSeccompFlagSpecAllow: unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
	specs.LinuxSeccompFlagWaitKillableRecv: waitKillable,
}

const waitKillable = 0x20 // SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV

var native = map[string]specs.Arch{"amd64": specs.ArchX86_64, "arm64": specs.ArchAARCH64, "arm": specs.ArchARM, "386": specs.ArchX86}

// rule is what a profile says of a call with certain arguments.
type rule struct {
	args []specs.LinuxSeccompArg
	ret  uint32
}

// ret is the value that a filter returns for an action.
func ret(name string, a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	v, ok := actions[a]
	if !ok {
		return 0, field(name+".action", "there is no action %q", a)
	}
	switch {
	case a == specs.ActErrno || a == specs.ActTrace:
		n := uint(unix.EPERM)
		if errno != nil {
			n = *errno
		}
		if n > 4095 {
			return 0, field(name+".errnoRet", "there is no error %d", n)
		}
		v |= uint32(n)
	case errno != nil && *errno != 0:
		return 0, field(name+".errnoRet", "%s returns none", a)
	}
	return v, nil
}

// Compile turns a profile into a filter. A name that no architecture has is passed
// over, for it cannot be called. The error is a *FieldError.
func Compile(p *specs.LinuxSeccomp) (*Filter, error) {
	def, err := ret("default", p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		e := err.(*FieldError)
		e.Field = map[string]string{"linux.seccomp.default.action": "linux.seccomp.defaultAction", "linux.seccomp.default.errnoRet": "linux.seccomp.defaultErrnoRet"}[e.Field]
		return nil, e
	}
	f := &Filter{}
	for _, name := range p.Flags {
		v, ok := flags[name]
		if !ok {
			return nil, field("flags", "%q is not supported", name)
		}
		f.Flags |= v
	}
	f.Listener, f.Metadata = p.ListenerPath, p.ListenerMetadata
	arches := []specs.Arch{native[runtime.GOARCH]}
	if tables()[arches[0]] == nil {
		return nil, fmt.Errorf("cannot compile linux.seccomp: the system calls of %s are not known", runtime.GOARCH)
	}
	for i, a := range p.Architectures {
		if tables()[a] == nil {
			return nil, field(fmt.Sprintf("architectures[%d]", i), "%q is not supported", a)
		}
		if !slices.Contains(arches, a) {
			arches = append(arches, a)
		}
	}
	type named struct {
		name string
		rule
	}
	var rules []named
	if p.DefaultAction == specs.ActNotify {
		// Nobody could tell the runtime that there is a listener.
		return nil, field("defaultAction", "SCMP_ACT_NOTIFY is for calls that are named")
	}
	for i, s := range p.Syscalls {
		at := fmt.Sprintf("syscalls[%d]", i)
		if s.Action == specs.ActNotify {
			if slices.Contains(s.Names, "write") {
				return nil, field(at+".names", "write cannot be SCMP_ACT_NOTIFY: without it the agent does not hear of the listener")
			}
			f.Notify = true
		}
		r, err := ret(at, s.Action, s.ErrnoRet)
		if err != nil {
			return nil, err
		}
		if len(s.Names) == 0 {
			return nil, field(at+".names", "it is required")
		}
		seen := map[uint]bool{}
		repeats := false
		for j, a := range s.Args {
			if a.Index > 5 {
				return nil, field(fmt.Sprintf("%s.args[%d].index", at, j), "want 0 to 5, not %d", a.Index)
			}
			if _, ok := comparisons[a.Op]; !ok {
				return nil, field(fmt.Sprintf("%s.args[%d].op", at, j), "there is no operator %q", a.Op)
			}
			repeats = repeats || seen[a.Index]
			seen[a.Index] = true
		}
		for _, name := range s.Names {
			if !repeats {
				rules = append(rules, named{name, rule{s.Args, r}})
				continue
			}
			for _, a := range s.Args { // the same argument again means "or", as with runc
				rules = append(rules, named{name, rule{[]specs.LinuxSeccompArg{a}, r}})
			}
		}
	}
	switch {
	case f.Notify && f.Listener == "":
		return nil, field("listenerPath", "SCMP_ACT_NOTIFY needs the socket of an agent")
	case !f.Notify && f.Listener != "":
		return nil, field("listenerPath", "it is for SCMP_ACT_NOTIFY, which no call has")
	case !f.Notify && f.Metadata != "":
		return nil, field("listenerMetadata", "it is for SCMP_ACT_NOTIFY, which no call has")
	case f.Notify:
		f.Flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	default:
		f.Flags &^= waitKillable // there is nobody to wait for
	}
	refuses := p.DefaultAction != specs.ActAllow && p.DefaultAction != specs.ActLog
	var prog []bpf.Instruction
	prog = append(prog, bpf.LoadAbsolute{Off: 4, Size: 4})
	for _, id := range []auditArch{auditX86_64, auditI386, auditAArch64, auditARM} {
		calls := map[uint32][]rule{}
		found := false
		newest := uint32(0)
		for _, a := range arches {
			t := tables()[a]
			if t.id != id {
				continue
			}
			found = true
			for _, r := range rules {
				nr, ok := t.numbers[r.name]
				if !ok {
					continue
				}
				n := nr | t.mask
				calls[n] = append(calls[n], r.rule)
				newest = max(newest, n&^x32Bit)
			}
		}
		if !found {
			continue
		}
		var spans []span
		next := uint32(0)
		for _, n := range sortedKeys(calls) {
			if n > next {
				spans = append(spans, span{from: next, body: answer(def)})
			}
			spans = append(spans, span{from: n, body: try(calls[n], def)})
			next = n + 1
		}
		spans = append(spans, span{from: next, body: answer(def)})
		spans = unify(spans, def, newest, refuses, id == auditX86_64 && !slices.Contains(arches, specs.ArchX32))
		body := append([]bpf.Instruction{bpf.LoadAbsolute{Off: 0, Size: 4}}, search(spans)...)
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(id), SkipTrue: 1}, bpf.Jump{Skip: uint32(len(body))})
		prog = append(prog, body...)
	}
	prog = append(prog, bpf.RetConstant{Val: actions[specs.ActKill]}) // an architecture that the profile does not know
	if len(prog) > maxProgram {
		return nil, field("syscalls", "they make %d instructions, the kernel takes %d", len(prog), maxProgram)
	}
	raw, err := bpf.Assemble(prog)
	if err != nil {
		return nil, fmt.Errorf("cannot assemble linux.seccomp: %v", err)
	}
	for _, r := range raw {
		f.Program = append(f.Program, unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K})
	}
	return f, nil
}

func sortedKeys(m map[uint32][]rule) []uint32 {
	keys := make([]uint32, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// span is a range of numbers of calls, up to the next one's from, and what is made of
// them.
type span struct {
	from uint32
	body []bpf.Instruction
}

// unify gives calls that are newer than the newest the profile names their ENOSYS,
// those of x32 as well where it is not meant, and joins neighbours that are the same.
func unify(spans []span, def, newest uint32, refuses, noX32 bool) []span {
	const enosys = retErrno | uint32(unix.ENOSYS)
	if refuses {
		spans = insert(spans, newest+1, x32Bit, answer(enosys), def)
	}
	if noX32 {
		spans = insert(spans, x32Bit, 1<<31, answer(enosys), def)
	}
	out := spans[:0]
	for _, s := range spans {
		if len(out) > 0 && slices.Equal(out[len(out)-1].body, s.body) {
			continue
		}
		out = append(out, s)
	}
	return out
}

// insert replaces what is from one number to another, where nothing is named.
func insert(spans []span, from, to uint32, body []bpf.Instruction, def uint32) []span {
	spans = slices.DeleteFunc(spans, func(s span) bool { return s.from >= from && s.from < to })
	spans = append(spans, span{from, body})
	if !slices.ContainsFunc(spans, func(s span) bool { return s.from == to }) {
		spans = append(spans, span{to, answer(def)})
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	return spans
}

func answer(v uint32) []bpf.Instruction { return []bpf.Instruction{bpf.RetConstant{Val: v}} }

// search finds the span that the number in the accumulator is in.
func search(spans []span) []bpf.Instruction {
	if len(spans) == 1 {
		return spans[0].body
	}
	mid := len(spans) / 2
	below, above := search(spans[:mid]), search(spans[mid:])
	test := []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: spans[mid].from, SkipFalse: 1}, bpf.Jump{Skip: uint32(len(below))}}
	if len(below) < 256 {
		test = []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: spans[mid].from, SkipTrue: uint8(len(below))}}
	}
	return slices.Concat(test, below, above)
}

// try is the rules of one call.
func try(rules []rule, def uint32) (out []bpf.Instruction) {
	for _, r := range rules {
		body := answer(r.ret)
		for _, a := range slices.Backward(r.args) {
			body = slices.Concat(compare(a, len(body)), body)
		}
		out = append(out, body...)
		if len(r.args) == 0 {
			return out
		}
	}
	return append(out, bpf.RetConstant{Val: def})
}

// comparisons by operator: the test of the high word that lets it pass at once, the
// test of the low word, and whether passing means failing.
var comparisons = map[specs.LinuxSeccompOperator]struct {
	high, low bpf.JumpTest
	not       bool
}{
	specs.OpEqualTo: {low: bpf.JumpEqual}, specs.OpNotEqual: {low: bpf.JumpEqual, not: true},
	specs.OpGreaterThan: {high: bpf.JumpGreaterThan, low: bpf.JumpGreaterThan}, specs.OpLessEqual: {high: bpf.JumpGreaterThan, low: bpf.JumpGreaterThan, not: true},
	specs.OpGreaterEqual: {high: bpf.JumpGreaterThan, low: bpf.JumpGreaterOrEqual}, specs.OpLessThan: {high: bpf.JumpGreaterThan, low: bpf.JumpGreaterOrEqual, not: true},
	specs.OpMaskedEqual: {low: bpf.JumpEqual},
}

// compare goes on after itself where an argument matches, and skips n more
// instructions where it does not.
func compare(a specs.LinuxSeccompArg, n int) []bpf.Instruction {
	c := comparisons[a.Op]
	at := 16 + 8*uint32(a.Index) // struct seccomp_data
	value := a.Value
	high, low := bpf.Instruction(bpf.LoadAbsolute{Off: at + 4, Size: 4}), bpf.Instruction(bpf.LoadAbsolute{Off: at, Size: 4})
	var maskHigh, maskLow []bpf.Instruction
	if a.Op == specs.OpMaskedEqual {
		value = a.ValueTwo
		maskHigh = []bpf.Instruction{bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: uint32(a.Value >> 32)}}
		maskLow = []bpf.Instruction{bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: uint32(a.Value)}}
	}
	// Both outcomes are jumps, so they are placed last: "yes" falls through.
	yes, no := 0, n
	if c.not {
		yes, no = n, 0
	}
	low2 := slices.Concat([]bpf.Instruction{low}, maskLow, []bpf.Instruction{bpf.JumpIf{Cond: c.low, Val: uint32(value), SkipTrue: uint8(yes), SkipFalse: uint8(no)}})
	code := slices.Concat([]bpf.Instruction{high}, maskHigh)
	if c.high != 0 {
		code = append(code, bpf.JumpIf{Cond: c.high, Val: uint32(value >> 32), SkipTrue: uint8(yes + len(low2) + 1)})
	}
	code = append(code, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(value >> 32), SkipFalse: uint8(no + len(low2))})
	return append(code, low2...)
}
