// Package cpuset is the kernel's cpu list: "0-3,8" as sysfs and cgroups print it.
//
// A Set is immutable; every operation returns a new one. The zero Set is empty.
package cpuset

import (
	"fmt"
	"iter"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// A CPU is a logical cpu as the kernel numbers it.
type CPU int

// MaxCPU bounds the ids this package accepts, so that a broken file cannot ask
// for gigabytes. Linux' own NR_CPUS is 8192 at the most.
const MaxCPU CPU = 1<<16 - 1

// A Set is a set of cpus.
type Set struct {
	// words holds cpu c at bit c%64 of word c/64; the last word is never 0.
	words []uint64
}

// Of returns the set of the cpus given. It panics on a cpu outside 0..MaxCPU:
// ids that come from outside go through Parse.
func Of(cpus ...CPU) Set {
	var words []uint64
	for _, c := range cpus {
		if c < 0 || c > MaxCPU {
			panic(fmt.Sprintf("cpuset: cpu %d is outside 0-%d", c, MaxCPU))
		}
		words = setBit(words, c)
	}
	return Set{words}
}

// Range returns the cpus first to last, both included.
func Range(first, last CPU) Set {
	var words []uint64
	for c := first; c <= last; c++ {
		words = setBit(words, c)
	}
	return Set{words}
}

func setBit(words []uint64, c CPU) []uint64 {
	for int(c)/64 >= len(words) {
		words = append(words, 0)
	}
	words[c/64] |= 1 << (c % 64)
	return words
}

// Parse reads a kernel cpu list, e.g. "0-3,8" or "0-31:1/2" (of each group of 2
// the first 1). An empty list is the empty set. Numbers may come in any order.
//
// See Documentation/admin-guide/kernel-parameters.rst, "cpu lists".
func Parse(s string) (Set, error) {
	var words []uint64
	t := strings.TrimSpace(s)
	if t == "" {
		return Set{}, nil
	}
	for part := range strings.SplitSeq(t, ",") {
		part = strings.TrimSpace(part)
		span, stride, strided := strings.Cut(part, ":")
		lo, hi, isRange := strings.Cut(span, "-")
		first, err := parseCPU(lo)
		if err != nil {
			return Set{}, fmt.Errorf("cannot read cpu list %q: %v", s, err)
		}
		last := first
		if isRange {
			if last, err = parseCPU(hi); err != nil {
				return Set{}, fmt.Errorf("cannot read cpu list %q: %v", s, err)
			}
		}
		if last < first {
			return Set{}, fmt.Errorf("cannot read cpu list %q: range %q runs backwards", s, part)
		}
		used, group := CPU(1), CPU(1)
		if strided {
			u, g, ok := strings.Cut(stride, "/")
			if used, err = parseCPU(u); ok && err == nil {
				group, err = parseCPU(g)
			}
			if !ok || err != nil || !isRange || used == 0 || used > group {
				return Set{}, fmt.Errorf("cannot read cpu list %q: want FIRST-LAST:USED/GROUP, not %q", s, part)
			}
		}
		for c := first; c <= last; c++ {
			if (c-first)%group < used {
				words = setBit(words, c)
			}
		}
	}
	return Set{words}, nil
}

func parseCPU(s string) (CPU, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a cpu number", s)
	}
	if n > uint64(MaxCPU) {
		return 0, fmt.Errorf("cpu %d is above %d", n, MaxCPU)
	}
	return CPU(n), nil
}

// ParseMask reads a kernel cpu mask, e.g. "ff" or "00000003,ffffffff": groups
// of 32 bits in hexadecimal, highest first.
func ParseMask(s string) (Set, error) {
	t := strings.TrimSpace(s)
	if t == "" {
		return Set{}, fmt.Errorf("cannot read cpu mask %q: it is empty", s)
	}
	groups := strings.Split(t, ",")
	if len(groups) > (int(MaxCPU)+1)/32 {
		return Set{}, fmt.Errorf("cannot read cpu mask: %d groups of 32 bits are too many", len(groups))
	}
	words := make([]uint64, (len(groups)+1)/2)
	for i, g := range groups {
		v, err := strconv.ParseUint(g, 16, 32)
		if err != nil {
			return Set{}, fmt.Errorf("cannot read cpu mask %q: %q is not 32 bits of hexadecimal", s, g)
		}
		at := len(groups) - 1 - i
		words[at/2] |= v << (32 * (at % 2))
	}
	return norm(words), nil
}

func norm(words []uint64) Set {
	for len(words) > 0 && words[len(words)-1] == 0 {
		words = words[:len(words)-1]
	}
	if len(words) == 0 {
		return Set{}
	}
	return Set{words}
}

// String prints the canonical list, e.g. "0-3,8"; the empty set is "".
func (s Set) String() string {
	var b []byte
	for first, last := range s.Ranges() {
		if len(b) > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(first), 10)
		if last > first {
			b = append(b, '-')
			b = strconv.AppendInt(b, int64(last), 10)
		}
	}
	return string(b)
}

// Ranges yields the runs of consecutive cpus, ascending.
func (s Set) Ranges() iter.Seq2[CPU, CPU] {
	return func(yield func(CPU, CPU) bool) {
		first, last := CPU(-1), CPU(-1)
		for c := range s.All() {
			if first >= 0 && c == last+1 {
				last = c
				continue
			}
			if first >= 0 && !yield(first, last) {
				return
			}
			first, last = c, c
		}
		if first >= 0 {
			yield(first, last)
		}
	}
}

// All yields the cpus, ascending.
func (s Set) All() iter.Seq[CPU] {
	return func(yield func(CPU) bool) {
		for i, w := range s.words {
			for ; w != 0; w &= w - 1 {
				if !yield(CPU(64*i + bits.TrailingZeros64(w))) {
					return
				}
			}
		}
	}
}

// List returns the cpus, ascending.
func (s Set) List() []CPU {
	out := make([]CPU, 0, s.Len())
	for c := range s.All() {
		out = append(out, c)
	}
	return out
}

// Len returns how many cpus s holds.
func (s Set) Len() int {
	n := 0
	for _, w := range s.words {
		n += bits.OnesCount64(w)
	}
	return n
}

// Empty reports whether s holds no cpu.
func (s Set) Empty() bool { return len(s.words) == 0 }

// Min returns the lowest cpu of s, or -1 when s is empty.
func (s Set) Min() CPU {
	for c := range s.All() {
		return c
	}
	return -1
}

// Contains reports whether c is in s.
func (s Set) Contains(c CPU) bool {
	return c >= 0 && int(c)/64 < len(s.words) && s.words[c/64]&(1<<(c%64)) != 0
}

// Equal reports whether s and t hold the same cpus.
func (s Set) Equal(t Set) bool { return slices.Equal(s.words, t.words) }

// Union returns the cpus in s or t.
func (s Set) Union(t Set) Set {
	if len(s.words) < len(t.words) {
		s, t = t, s
	}
	words := slices.Clone(s.words)
	for i, w := range t.words {
		words[i] |= w
	}
	return norm(words)
}

// Intersect returns the cpus in both s and t.
func (s Set) Intersect(t Set) Set {
	words := slices.Clone(s.words[:min(len(s.words), len(t.words))])
	for i := range words {
		words[i] &= t.words[i]
	}
	return norm(words)
}

// Minus returns the cpus in s but not in t.
func (s Set) Minus(t Set) Set {
	words := slices.Clone(s.words)
	for i := range min(len(words), len(t.words)) {
		words[i] &^= t.words[i]
	}
	return norm(words)
}

// Overlaps reports whether s and t share a cpu.
func (s Set) Overlaps(t Set) bool {
	for i := range min(len(s.words), len(t.words)) {
		if s.words[i]&t.words[i] != 0 {
			return true
		}
	}
	return false
}

// SubsetOf reports whether every cpu of s is in t.
func (s Set) SubsetOf(t Set) bool {
	for i, w := range s.words {
		if i >= len(t.words) {
			return false
		}
		if w&^t.words[i] != 0 {
			return false
		}
	}
	return true
}

// MarshalText prints the canonical list.
func (s Set) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a kernel cpu list.
func (s *Set) UnmarshalText(b []byte) error {
	t, err := Parse(string(b))
	if err == nil {
		*s = t
	}
	return err
}
