package acpi

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// A value is static AML data: uint64, string, []byte (buffer), []value (package)
// or ref (a name that stands for an object).
type value any

type ref struct{ scope, name string }

// An object is a named value with where it was declared.
type object struct {
	path  string // "\_SB.CPUS.C000._PSS"
	value value
	// conditional names what the enclosing If asks for; empty outside of one.
	conditional string
	file        string
}

// A namespace is the static objects of all tables.
type namespace struct {
	objects map[string]object
	order   []string
	methods map[string]int // arguments by last name segment
}

func newNamespace() *namespace {
	return &namespace{objects: map[string]object{}, methods: map[string]int{}}
}

// amlError is where a table stopped to make sense.
type amlError struct {
	offset int
	reason string
}

func (e amlError) Error() string { return fmt.Sprintf("offset %d: %s", e.offset, e.reason) }

// Bounds on what a hostile table can make us do.
const (
	maxDepth   = 48
	maxObjects = 1 << 16
)

// parser walks the AML of one table. It knows the length of every block before it
// enters, so an error costs the innermost block only.
type parser struct {
	b    []byte
	ns   *namespace
	file string
	errs []error
}

// parseAML adds the static objects of a DSDT's or SSDT's body, which begins at
// offset start of the table, to ns. It returns what did not make sense.
func parseAML(table []byte, start int, ns *namespace, file string) []error {
	p := &parser{b: table, ns: ns, file: file}
	if start > len(table) {
		return []error{amlError{len(table), "the table ends before its body"}}
	}
	p.terms(start, len(table), `\`, "", 0)
	return p.errs
}

func (p *parser) fail(at int, format string, args ...any) {
	if len(p.errs) < 32 {
		p.errs = append(p.errs, amlError{at, fmt.Sprintf(format, args...)})
	}
}

// terms walks a TermList (ACPI 6.5, 20.2.5) from at to end.
func (p *parser) terms(at, end int, scope, conditional string, depth int) {
	if depth > maxDepth {
		p.fail(at, "blocks are nested deeper than %d", maxDepth)
		return
	}
	for at < end {
		next, err := p.term(at, end, scope, conditional, depth)
		if err != nil {
			p.errs = append(p.errs, err)
			return
		}
		at = next
	}
}

func errorAt(at int, format string, args ...any) error {
	return amlError{at, fmt.Sprintf(format, args...)}
}

// term reads one term and returns where the next begins.
func (p *parser) term(at, end int, scope, conditional string, depth int) (int, error) {
	op, n := p.op(at, end)
	body := at + n
	switch op {
	case opName:
		name, i, err := p.name(body, end)
		if err != nil {
			return 0, err
		}
		v, i, err := p.data(i, end, scope, depth+1)
		if err != nil {
			return 0, err
		}
		p.declare(join(scope, name), v, conditional)
		return i, nil
	case opScope, opDevice, opProcessor, opPowerRes, opThermalZone, opMethod:
		i, blockEnd, err := p.pkgLength(body, end)
		if err != nil {
			return 0, err
		}
		name, i, err := p.name(i, blockEnd)
		if err != nil {
			p.errs = append(p.errs, err)
			return blockEnd, nil
		}
		path := join(scope, name)
		extra := map[int]int{opProcessor: 6, opPowerRes: 3, opMethod: 1}[op]
		if i+extra > blockEnd {
			p.fail(i, "%s ends before its body", path)
			return blockEnd, nil
		}
		if op == opMethod {
			p.ns.methods[lastSegment(path)] = int(p.b[i] & 7)
			p.method(i+1, blockEnd, path, conditional, depth)
			return blockEnd, nil
		}
		p.terms(i+extra, blockEnd, path, conditional, depth+1)
		return blockEnd, nil
	case opIf:
		i, blockEnd, err := p.pkgLength(body, end)
		if err != nil {
			return 0, err
		}
		what := ""
		i, err = p.skip(i, blockEnd, depth+1, &what)
		if err != nil {
			p.errs = append(p.errs, err)
			return blockEnd, nil
		}
		if what == "" {
			what = "a constant"
		}
		p.terms(i, blockEnd, scope, what, depth+1)
		return blockEnd, nil
	case opElse:
		i, blockEnd, err := p.pkgLength(body, end)
		if err != nil {
			return 0, err
		}
		p.terms(i, blockEnd, scope, "the else of an If", depth+1)
		return blockEnd, nil
	}
	return p.skip(at, end, depth+1, nil)
}

// method takes a method that does nothing but return an object for that object:
// many firmwares write Method (_PSS) { Return (\_SB.PSSP) }.
func (p *parser) method(at, end int, path, conditional string, depth int) {
	if at >= end || p.b[at] != 0xA4 { // ReturnOp
		return
	}
	if op, _ := p.op(at+1, end); op < 0 {
		return
	}
	v, i, err := p.data(at+1, end, path, depth+1)
	if err == nil && i == end {
		p.declare(path, v, conditional)
	}
}

func (p *parser) declare(path string, v value, conditional string) {
	if len(p.ns.objects) >= maxObjects {
		return
	}
	if _, there := p.ns.objects[path]; !there {
		p.ns.order = append(p.ns.order, path)
	} else if conditional != "" {
		return // what holds without a condition stays
	}
	p.ns.objects[path] = object{path, v, conditional, p.file}
}

// Opcodes of blocks; the two-byte ones as 0x5B00 + second byte.
const (
	opName        = 0x08
	opScope       = 0x10
	opMethod      = 0x14
	opIf          = 0xA0
	opElse        = 0xA1
	opDevice      = 0x5B82
	opProcessor   = 0x5B83
	opPowerRes    = 0x5B84
	opThermalZone = 0x5B85
)

// op returns the opcode at an offset and its length; -1 past the end.
func (p *parser) op(at, end int) (op, n int) {
	if at >= end {
		return -1, 0
	}
	if p.b[at] == 0x5B {
		if at+1 >= end {
			return -1, 0
		}
		return 0x5B00 | int(p.b[at+1]), 2
	}
	return int(p.b[at]), 1
}

// pkgLength reads a PkgLength (20.2.4) and returns where the block's content
// begins and ends. A block may not reach beyond the one around it.
func (p *parser) pkgLength(at, end int) (content, blockEnd int, err error) {
	if at >= end {
		return 0, 0, errorAt(at, "a block ends before its length")
	}
	lead := p.b[at]
	n := int(lead >> 6)
	if at+1+n > end {
		return 0, 0, errorAt(at, "a block ends within its length")
	}
	length := int(lead & 0x3F)
	if n > 0 {
		length = int(lead & 0x0F)
		for i := range n {
			length |= int(p.b[at+1+i]) << (4 + 8*i)
		}
	}
	if length < 1+n || at+length > end {
		return 0, 0, errorAt(at, "a block of %d bytes does not fit the %d around it", length, end-at)
	}
	return at + 1 + n, at + length, nil
}

// name reads a NameString (20.2.2).
func (p *parser) name(at, end int) (string, int, error) {
	start := at
	var b strings.Builder
	for at < end && (p.b[at] == '\\' || p.b[at] == '^') {
		b.WriteByte(p.b[at])
		at++
	}
	if at >= end {
		return "", 0, errorAt(start, "a name runs beyond its block")
	}
	count := 1
	switch p.b[at] {
	case 0x00:
		return b.String(), at + 1, nil
	case 0x2E:
		count, at = 2, at+1
	case 0x2F:
		if at+1 >= end {
			return "", 0, errorAt(start, "a name runs beyond its block")
		}
		count, at = int(p.b[at+1]), at+2
	}
	if count == 0 || at+4*count > end {
		return "", 0, errorAt(start, "a name runs beyond its block")
	}
	for i := range count {
		seg := p.b[at+4*i : at+4*i+4]
		for k, c := range seg {
			if !(c == '_' || c >= 'A' && c <= 'Z' || k > 0 && c >= '0' && c <= '9') {
				return "", 0, errorAt(at+4*i, "%q is no name", seg)
			}
		}
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(string(seg[:1]) + strings.TrimRight(string(seg[1:]), "_"))
	}
	return b.String(), at + 4*count, nil
}

// isName reports whether a NameString may begin with c.
func isName(c byte) bool {
	return c == '\\' || c == '^' || c == '_' || c == 0x2E || c == 0x2F || c >= 'A' && c <= 'Z'
}

// join puts a name below a scope; \ starts from the root, ^ goes up.
func join(scope, name string) string {
	if rest, ok := strings.CutPrefix(name, `\`); ok {
		return `\` + rest
	}
	for strings.HasPrefix(name, "^") {
		name = name[1:]
		if i := strings.LastIndexByte(scope, '.'); i >= 0 {
			scope = scope[:i]
		} else {
			scope = `\`
		}
	}
	switch {
	case name == "":
		return scope
	case scope == `\`:
		return `\` + name
	}
	return scope + "." + name
}

func lastSegment(path string) string {
	return path[max(strings.LastIndexByte(path, '.'), strings.LastIndexByte(path, '\\'))+1:]
}

// data reads static data (20.2.3); what is computed is an error.
func (p *parser) data(at, end int, scope string, depth int) (value, int, error) {
	if depth > maxDepth {
		return nil, 0, errorAt(at, "data is nested deeper than %d", maxDepth)
	}
	op, n := p.op(at, end)
	i := at + n
	number := func(size int) (value, int, error) {
		if i+size > end {
			return nil, 0, errorAt(at, "a number runs beyond its block")
		}
		var b [8]byte
		copy(b[:], p.b[i:i+size])
		return binary.LittleEndian.Uint64(b[:]), i + size, nil
	}
	switch op {
	case -1:
		return nil, 0, errorAt(at, "the block ends where data should be")
	case 0x00, 0x01:
		return uint64(op), i, nil
	case 0xFF:
		return ^uint64(0), i, nil
	case 0x0A:
		return number(1)
	case 0x0B:
		return number(2)
	case 0x0C:
		return number(4)
	case 0x0E:
		return number(8)
	case 0x5B30: // RevisionOp
		return uint64(2), i, nil
	case 0x0D:
		for k := i; k < end; k++ {
			if p.b[k] == 0 {
				return string(p.b[i:k]), k + 1, nil
			}
		}
		return nil, 0, errorAt(at, "a string runs beyond its block")
	case 0x11: // Buffer
		i, blockEnd, err := p.pkgLength(i, end)
		if err != nil {
			return nil, 0, err
		}
		size, i, err := p.data(i, blockEnd, scope, depth+1)
		if err != nil {
			return nil, 0, err
		}
		buf := append([]byte(nil), p.b[i:blockEnd]...)
		if n, ok := size.(uint64); ok && n > uint64(len(buf)) && n <= 1<<16 {
			buf = append(buf, make([]byte, int(n)-len(buf))...)
		}
		return buf, blockEnd, nil
	case 0x12, 0x13: // Package, VarPackage
		i, blockEnd, err := p.pkgLength(i, end)
		if err != nil {
			return nil, 0, err
		}
		if op == 0x13 {
			if _, i, err = p.data(i, blockEnd, scope, depth+1); err != nil {
				return nil, 0, err
			}
		} else if i++; i > blockEnd {
			return nil, 0, errorAt(at, "a package ends before its count")
		}
		list := []value{}
		for i < blockEnd {
			var v value
			if v, i, err = p.data(i, blockEnd, scope, depth+1); err != nil {
				return nil, 0, err
			}
			list = append(list, v)
		}
		return list, blockEnd, nil
	}
	if op < 0x100 && isName(byte(op)) {
		name, i, err := p.name(at, end)
		if err != nil {
			return nil, 0, err
		}
		return ref{scope, name}, i, nil
	}
	return nil, 0, errorAt(at, "opcode 0x%x is not static data", op)
}

// shapes are the arguments of the opcodes that are skipped over: t a term, n a
// name, s a super name (or nothing, 0), 1 2 4 a number of bytes, p a block.
//
// See ACPI 6.5, 20.2.5 and table 20.2 ff.
var shapes = map[int]string{
	0x06: "nn", 0x15: "n11", // Alias, External
	0x70: "ts", 0x71: "s", 0x72: "tts", 0x73: "tts", 0x74: "tts", 0x75: "s", 0x76: "s", 0x77: "tts", 0x78: "ttss",
	0x79: "tts", 0x7A: "tts", 0x7B: "tts", 0x7C: "tts", 0x7D: "tts", 0x7E: "tts", 0x7F: "tts", 0x80: "ts",
	0x81: "ts", 0x82: "ts", 0x83: "t", 0x84: "tts", 0x85: "tts", 0x86: "st", 0x87: "s", 0x88: "tts", 0x89: "t1t1tt",
	0x8A: "ttn", 0x8B: "ttn", 0x8C: "ttn", 0x8D: "ttn", 0x8E: "s", 0x8F: "ttn",
	0x90: "tt", 0x91: "tt", 0x92: "t", 0x93: "tt", 0x94: "tt", 0x95: "tt",
	0x96: "ts", 0x97: "ts", 0x98: "ts", 0x99: "ts", 0x9C: "tts", 0x9D: "ts", 0x9E: "ttts", 0x9F: "", 0xA2: "p", 0xA3: "", 0xA4: "t", 0xA5: "",
	0xA0: "p", 0xA1: "p", 0x14: "p", 0x10: "p", 0xCC: "",
	0x5B01: "n1", 0x5B02: "n", 0x5B12: "ss", 0x5B13: "tttn", 0x5B1F: "tttttt", 0x5B20: "ns", 0x5B21: "t", 0x5B22: "t",
	0x5B23: "s2", 0x5B24: "s", 0x5B25: "st", 0x5B26: "s", 0x5B27: "s", 0x5B28: "ts", 0x5B29: "ts", 0x5B2A: "", 0x5B31: "", 0x5B32: "14t", 0x5B33: "",
	0x5B80: "n1tt", 0x5B81: "p", 0x5B82: "p", 0x5B83: "p", 0x5B84: "p", 0x5B85: "p", 0x5B86: "p", 0x5B87: "p", 0x5B88: "nttt",
}

// skip passes over one term without taking anything from it; names it passes are
// noted in names.
func (p *parser) skip(at, end, depth int, names *string) (int, error) {
	if depth > maxDepth {
		return 0, errorAt(at, "terms are nested deeper than %d", maxDepth)
	}
	op, n := p.op(at, end)
	if op < 0 {
		return 0, errorAt(at, "the block ends where a term should be")
	}
	if op >= 0x60 && op <= 0x6E { // Local0-7, Arg0-6
		return at + n, nil
	}
	if op < 0x100 && isName(byte(op)) {
		name, i, err := p.name(at, end)
		if err != nil {
			return 0, err
		}
		if names != nil && *names == "" {
			*names = name
		}
		for range p.ns.methods[lastSegment(join(`\`, name))] {
			if i, err = p.skip(i, end, depth+1, names); err != nil {
				return 0, err
			}
		}
		return i, nil
	}
	shape, ok := shapes[op]
	if !ok {
		_, i, err := p.data(at, end, `\`, depth+1)
		return i, err
	}
	i := at + n
	var err error
	for _, s := range shape {
		switch s {
		case 't':
			i, err = p.skip(i, end, depth+1, names)
		case 's':
			if i < end && p.b[i] == 0 {
				i++
			} else {
				i, err = p.skip(i, end, depth+1, names)
			}
		case 'n':
			var name string
			if name, i, err = p.name(i, end); err == nil && names != nil && *names == "" {
				*names = name
			}
		case 'p':
			_, i, err = p.pkgLength(i, end)
		default:
			if i += int(s - '0'); i > end {
				err = errorAt(at, "opcode 0x%x runs beyond its block", op)
			}
		}
		if err != nil {
			return 0, err
		}
	}
	return i, nil
}

// resolve follows names to data; nil where they lead nowhere. A name of one
// segment is looked for in its scope and then in each one around it (5.3).
func (ns *namespace) resolve(v value) value {
	for range maxDepth {
		r, ok := v.(ref)
		if !ok {
			return v
		}
		o, found := ns.lookup(r)
		if !found {
			return nil
		}
		v = o.value
	}
	return nil
}

func (ns *namespace) lookup(r ref) (object, bool) {
	if strings.ContainsAny(r.name, `\^.`) {
		o, ok := ns.objects[join(r.scope, r.name)]
		return o, ok
	}
	for scope := r.scope; ; {
		if o, ok := ns.objects[join(scope, r.name)]; ok {
			return o, true
		}
		if scope == `\` {
			return object{}, false
		}
		if i := strings.LastIndexByte(scope, '.'); i >= 0 {
			scope = scope[:i]
		} else {
			scope = `\`
		}
	}
}
