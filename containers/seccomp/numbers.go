package seccomp

import (
	_ "embed"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// numbersText has a line for each system call: its name, and its number on x86_64, i386,
// x32, aarch64 and arm, "-" where there is none. It is elastic/go-seccomp-bpf's table,
// which is generated from the kernel, as a text: that library's maps are made whenever a
// program that holds it starts, which a container would wait for. The tests hold it
// against the library.
//
//go:embed numbers.txt
var numbersText string

// auditArch is the kernel's number of an architecture.
//
// See linux/audit.h, AUDIT_ARCH.
type auditArch uint32

const (
	auditX86_64  auditArch = 0xc000003e
	auditI386    auditArch = 0x40000003
	auditAArch64 auditArch = 0xc00000b7
	auditARM     auditArch = 0x40000028
)

// A table is an architecture's system calls.
type table struct {
	id auditArch // x32 shares x86_64's
	// mask is set in every number.
	mask    uint32
	numbers map[string]uint32
}

// tables are the architectures by the spec's names.
var tables = sync.OnceValue(func() map[specs.Arch]*table {
	columns := []*table{{id: auditX86_64}, {id: auditI386}, {id: auditX86_64, mask: x32Bit}, {id: auditAArch64}, {id: auditARM}}
	for _, t := range columns {
		t.numbers = make(map[string]uint32, 450)
	}
	for line := range strings.Lines(numbersText) {
		words := strings.Fields(line)
		for i, w := range words[1:] {
			if n, err := strconv.ParseUint(w, 10, 32); err == nil {
				columns[i].numbers[words[0]] = uint32(n)
			}
		}
	}
	return map[specs.Arch]*table{specs.ArchX86_64: columns[0], specs.ArchX86: columns[1], specs.ArchX32: columns[2], specs.ArchAARCH64: columns[3], specs.ArchARM: columns[4]}
})
